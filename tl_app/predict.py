"""Answers new inputs with the model of a run.

python -m tl_app.predict --model=runs/movie_reviews --text="A gripping, moving film."
python -m tl_app.predict --model=runs/movie_reviews --input=reviews.txt --output=answers.csv
"""

from tl_app import cli
from tl_app.errors import UserError
from tl_app.workdir import INPUT_COLUMNS


def define_flags():
  cli.flag("model", "", "A finished run, or its exported SavedModel.", path=True)
  cli.flag(
    "input",
    "",
    "An image, a directory of images, a .txt file or - (one text per line), csv, tsv, jsonl, xlsx, parquet, conll.",
    path=True,
  )
  cli.flag("text", "", "One text, in place of --input.")
  cli.flag("text_pair", "", "The second text, beside --text, for a model of pairs of texts.")
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
  cli.define([*INPUT_COLUMNS, "trust_backbone"])


def main():
  flags = cli.FLAGS
  cli.need("model")
  texts = [flags[name].value for name in ("text", "text_pair") if flags[name].present]
  if flags["text"].present == bool(flags.input) or (flags["text_pair"].present and not flags["text"].present):
    raise UserError("give either --input, a file or directory, or --text, one text (and --text_pair for a pair)")
  from tl_app.commands import early_checks

  columns = cli.given(INPUT_COLUMNS)
  early_checks.prediction(flags.model, flags.input, columns)
  cli.start_tensorflow()
  from tl_app.commands import predict

  source = [texts if texts[1:] else texts[0]] if texts else flags.input
  settings = {"batch_size": flags.batch_size, "top": flags.top, "trust_backbone": flags.trust_backbone}
  predict.predict(flags.model, source, flags.output, **settings, **columns)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
