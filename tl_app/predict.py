"""Answers new inputs with the model of a run.

python -m tl_app.predict --model=runs/movie_reviews --text="A gripping, moving film."
python -m tl_app.predict --model=runs/movie_reviews --input=reviews.txt --output=answers.csv
"""

from tl_app.commands import cli


def define_flags():
  cli.flag("model", "", "A finished run, or its exported SavedModel.", path=True)
  cli.flag(
    "input",
    "",
    "An image, a directory of images, a .txt file or - (one text per line), csv, tsv, jsonl, xlsx, parquet, conll.",
    path=True,
  )
  cli.flag("text", (), "A text, in place of --input; several --text are several inputs.")
  cli.flag("text_pair", (), "The second text of each --text, for a model of pairs of texts.")
  cli.flag(
    "output",
    "",
    "File of the answers: a table with the best two classes if its name ends with .csv, else one JSON object per line. "
    "Empty: standard output.",
    path=True,
  )
  cli.flag("batch_size", 32, "Number of inputs per call of the model.")
  cli.flag(
    "top",
    0,
    "Number of classes whose probabilities are written, the highest first. 0: all; of more than 100 classes the 10 "
    "highest.",
    low=0,
  )
  cli.define([*cli.INPUT_COLUMNS, "trust_backbone"])


def main():
  flags = cli.FLAGS
  cli.need("model")
  from tl_app.commands import arguments

  columns = cli.given(cli.INPUT_COLUMNS)
  arguments.prediction(cli.texts(), flags.input)
  from tl_app.commands import early_checks

  early_checks.prediction(flags.model, flags.input, columns)
  cli.start_tensorflow()
  from tl_app.commands import predict

  settings = {"batch_size": flags.batch_size, "top": flags.top, "trust_backbone": flags.trust_backbone}
  predict.predict(flags.model, cli.inputs(), flags.output, **settings, **columns)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
