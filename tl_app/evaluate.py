"""Evaluates a finished run on its own test split, or on other labelled data.

python -m tl_app.evaluate --workdir=runs/movie_reviews
python -m tl_app.evaluate --workdir=runs/movie_reviews --dataset=table:more.csv --output=more/
"""

from tl_app.commands import cli


def define_flags():
  cli.define(["workdir", *cli.RELOADING_FLAGS, *cli.EVALUATION_FLAGS])
  help = "Directory for metrics.json, predictions.csv and slices.csv. Empty: they are only printed."
  cli.flag("output", "", help, path=True)


def main():
  flags = cli.FLAGS
  cli.need("workdir")
  from tl_app.commands import arguments

  data, downloads = cli.given(cli.EVALUATION_FLAGS), cli.given(cli.RELOADING_FLAGS)
  config = arguments.finished_run(flags.workdir)
  from tl_app.commands import early_checks

  early_checks.evaluation(config, data)
  cli.start_tensorflow()
  from tl_app.commands import evaluate, results

  with cli.progress():
    metrics = evaluate.evaluate(flags.workdir, data, flags.output, downloads)
  results.evaluation(metrics, flags.output)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
