"""Evaluates a finished run on its own test split, or on other labelled data.

python -m tl_app.evaluate --workdir=runs/movie_reviews
python -m tl_app.evaluate --workdir=runs/movie_reviews --dataset=table:more.csv --output=more/
"""

from tl_app import cli, workdir
from tl_app.config.rules import EVALUATION_FLAGS, RELOADING_FLAGS


def define_flags():
  cli.define(["workdir", *RELOADING_FLAGS, *EVALUATION_FLAGS])
  help = "Directory for metrics.json, predictions.csv and slices.csv. Empty: they are only printed."
  cli.flag("output", "", help, path=True)


def main():
  flags = cli.FLAGS
  cli.need("workdir")
  _, config = workdir.open_run(flags.workdir)
  from tl_app.commands import early_checks

  early_checks.evaluation(config, cli.given(EVALUATION_FLAGS))
  cli.start_tensorflow()
  from tl_app.commands import evaluate as command
  from tl_app.report import summary

  with cli.progress():
    metrics = command.evaluate(flags.workdir, cli.given(EVALUATION_FLAGS), flags.output, cli.given(RELOADING_FLAGS))
  cli.print_results(summary.lines(metrics, flags.output or None), summary.INDENT)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
