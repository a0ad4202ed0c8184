"""Answers new inputs with an exported model: one JSON object per line.

python -m tl_app.predict --model=runs/movie_reviews/export --input=reviews.txt
"""

from tl_app import cli

COLUMNS = ["text_column", "text_pair_column", "image_column"]


def define_flags():
  cli.flag("model", "", "The exported SavedModel: WORKDIR/export.", path=True)
  cli.flag(
    "input",
    "",
    "An image, a directory of images, a .txt file or - (one text per line), csv, tsv, jsonl, xlsx, parquet, conll.",
    path=True,
  )
  cli.flag("output", "", "File of the answers. Empty: standard output.", path=True)
  cli.flag("batch_size", 32, "Number of inputs per call of the model.")
  cli.flag(
    "top",
    0,
    "Number of classes whose probabilities are written, the highest first. 0: all; of more than 100 classes the 10 "
    "highest.",
    low=0,
  )
  cli.define(COLUMNS)


def main():
  flags = cli.FLAGS
  cli.need("model", "input")
  from tl_app.commands import early_checks

  early_checks.prediction(flags.model, flags.input, {name: flags[name].value for name in COLUMNS})
  cli.start_tensorflow()
  from tl_app.commands import predict

  predict.predict(
    flags.model,
    flags.input,
    flags.output,
    text_column=flags.text_column,
    text_pair_column=flags.text_pair_column,
    image_column=flags.image_column,
    batch_size=flags.batch_size,
    top=flags.top,
  )


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
