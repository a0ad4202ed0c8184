"""Answers new inputs with an exported model: one JSON object a line.

python -m tl_app.predict --model=runs/movie_reviews/export --input=reviews.txt
"""

from absl import flags

from tl_app import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "", "The exported SavedModel: WORKDIR/export.")
flags.DEFINE_string(
  "input", "", "An image, a directory of images, a .txt or - (a text a line), csv, tsv, jsonl, parquet, conll."
)
flags.DEFINE_string("output", "", "File of the answers. Empty: standard output.")
flags.DEFINE_integer("batch_size", 32, "Inputs that the model answers at a time.")
cli.define(["text_column", "text_pair_column", "image_column"])


def main():
  cli.need("model", "input")
  cli.start_tensorflow()
  from tl_app.commands import predict

  predict.predict(
    FLAGS.model,
    FLAGS.input,
    FLAGS.output,
    text_column=FLAGS.text_column,
    text_pair_column=FLAGS.text_pair_column,
    image_column=FLAGS.image_column,
    batch_size=FLAGS.batch_size,
  )


if __name__ == "__main__":
  cli.run(main, __doc__)
