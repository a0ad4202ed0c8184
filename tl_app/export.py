"""Exports a finished run again, and proves the export against the run's own test split.

python -m tl_app.export --workdir=runs/movie_reviews --output=serving/1
"""

from absl import flags

from tl_app import cli, workdir

FLAGS = flags.FLAGS
cli.define(["workdir", "cache_dir", "offline"])
flags.DEFINE_string("output", "", "Directory of the SavedModel. Empty: export/ in the workdir.")


def main():
  cli.need("workdir")
  workdir.open_run(FLAGS.workdir)
  cli.start_tensorflow()
  from tl_app.commands import finished_run
  from tl_app.report import summary

  with cli.progress():
    directory, proof = finished_run.export(FLAGS.workdir, FLAGS.output, FLAGS.cache_dir, FLAGS.offline)
  print(f"{directory}: {summary.parity(proof)}")


if __name__ == "__main__":
  cli.run(main, __doc__)
