"""Looks for faults in a data set: unreadable, repeated, contradictory, leaking, mislabelled examples.

python -m tl_app.check --dataset=images:photos
python -m tl_app.check --dataset=table:mails.csv --backbone=minilm_l6.pypi --output=faults.json --fix=fix.csv

Takes the flags of training, of which only --dataset is needed. Exit code 0: nothing serious; 1: serious faults.
"""

from tl_app.commands import cli


def define_flags():
  cli.define()
  cli.flag(
    "fix",
    "",
    "CSV file for proposed changes of labels, the test split first. Fill its column decision with accept, drop or "
    "keep, and give the file to --corrections.",
    path=True,
  )
  cli.flag("output", "", "JSON file of the findings. Empty: they are only printed.", path=True)


def main():
  flags = cli.FLAGS
  config = cli.config_from_flags(needed=("dataset",))
  from tl_app.commands import arguments

  arguments.check(flags.output, flags.fix)
  from tl_app.commands import early_checks

  early_checks.run(config)
  cli.start_tensorflow()
  from tl_app.commands import check, results

  with cli.progress():
    result, found = check.check(config, flags.fix)
  results.check(result, found, flags.fix)
  check.finish(config, result, flags.output)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
