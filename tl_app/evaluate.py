"""Measures a finished run: on its own test split, or on other labelled data.

python -m tl_app.evaluate --workdir=runs/movie_reviews
python -m tl_app.evaluate --workdir=runs/movie_reviews --dataset=table:more.csv --output=more/
"""

from absl import flags

from tl_app import cli, workdir

FLAGS = flags.FLAGS
COLUMNS = ["text_column", "text_pair_column", "image_column", "label_column", "label_columns"]
DATA = ["dataset", "data_dir", *COLUMNS, "on_bad_example"]
cli.define(["workdir", "cache_dir", "offline", *DATA])
flags.DEFINE_string("output", "", "Directory for metrics.json and predictions.csv. Empty: they are only printed.")


def main():
  cli.need("workdir")
  workdir.open_run(FLAGS.workdir)
  cli.start_tensorflow()
  from tl_app.commands import finished_run
  from tl_app.report import summary

  with cli.progress():
    metrics = finished_run.evaluate(FLAGS.workdir, cli.given(DATA), FLAGS.output, FLAGS.cache_dir, FLAGS.offline)
  print(summary.lines(metrics, FLAGS.output or None))


if __name__ == "__main__":
  cli.run(main, __doc__)
