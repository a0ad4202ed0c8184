"""Looks for faults in a data set: unreadable, repeated, contradictory, leaking, mislabelled examples.

python -m tl_app.check --dataset=images:photos
python -m tl_app.check --dataset=table:mails.csv --backbone=minilm_l6.pypi --output=faults.json --fix=fix.csv

Takes the flags of training, of which only --dataset is needed. Exit code 0: nothing serious; 1: serious faults.
"""

import pathlib

from tl_app import cli, files
from tl_app.errors import RunFailed, UserError


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
  for name, value in (("output", flags.output), ("fix", flags.fix)):
    if value and pathlib.Path(value).is_dir():
      raise UserError(f"--{name}={value} is a directory: give a file")
  if flags.output and pathlib.Path(flags.output).exists() and not flags.output.lower().endswith(".json"):
    raise UserError(
      f"--output={flags.output} exists and is no .json file: the findings would replace it; name another file"
    )
  if flags.fix and pathlib.Path(flags.fix).exists():
    raise UserError(f"--fix={flags.fix} exists and may hold decisions: name another file")
  from tl_app.commands import early_checks

  early_checks.run(config)
  cli.start_tensorflow()
  from tl_app.checking import summary
  from tl_app.commands import check

  with cli.progress():
    result, found = check.check(config, flags.fix)
  cli.print_results("\n".join(summary.lines(result, found)))
  if flags.fix:
    print(f"proposed changes are in {flags.fix}: fill its column decision, then give it to --corrections")
  if flags.output:
    files.write_json(flags.output, result)
  if summary.is_serious(found):
    raise RunFailed(f"--dataset={config.dataset} is faulty; serious findings: {result['serious']}")


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
