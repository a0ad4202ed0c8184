"""Searches flags of a training: probes on cached features first, then fine-tuning; trains the best flags and exports.

python -m tl_app.tune --backbone=minilm_l6.pypi --dataset=table:mails.csv --trials=20 --workdir=runs/tuned

Takes all flags of tl_app.train. Trials are measured on the validation split; test data are read by the last run alone.
The same command continues a search, and started several times at once it shares the trials. See docs/search.md.
"""

import sys

from tl_app.commands import cli


def define_flags():
  cli.define_run()
  cli.flag("trials", 0, "Largest number of trials. 0: 20, or without limit where --minutes is given.", low=0)
  cli.flag("minutes", 0.0, "Time for the trials; the run of the best flags comes after it. 0: no limit.", low=0)
  cli.flag(
    "space",
    "",
    "JSON, YAML or TOML file of the flags to search: a list of values, or low and high with log. Empty: solver and "
    "learning rate of the probe, then learning rate, layer decay, weight decay, stages, label smoothing and "
    "augmentation of fine-tuning.",
    path=True,
  )
  cli.flag(
    "method",
    "tpe",
    "How values are chosen. tpe: near those of good trials. random: at random. grid: all combinations.",
    choices=("tpe", "random", "grid"),
  )
  cli.flag(
    "pruning",
    "halving",
    "Which trials of fine-tuning stop early. halving: after 1, 3, 9, .. epochs the best third goes on. median: those "
    "below the median of the others. none: no trial.",
    choices=("halving", "median", "none"),
  )
  cli.flag("processes", 1, "Processes of this machine that run trials at the same time.", low=1)


def main():
  config = cli.config_from_flags()
  from tl_app.commands.searching import space

  flags = cli.FLAGS
  chosen = space.read(flags.space) if flags.space else None
  from tl_app.commands import default_backbone, early_checks

  early_checks.run(config)
  config = default_backbone.named(config)
  cli.need_packages("tune", "optuna")
  cli.start_tensorflow()
  from tl_app.commands import results, tune

  command = tuple(sys.argv[1:])
  options = tune.Options(flags.trials, flags.minutes, chosen, flags.method, flags.pruning, flags.processes, command)
  with cli.progress():
    result = tune.tune(config, options)
  if result:
    results.tuning(result, config.workdir)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags, continues=True)
