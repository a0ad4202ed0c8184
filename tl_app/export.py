"""Exports a finished run again, and checks the export on the run's own test split.

python -m tl_app.export --workdir=runs/movie_reviews --output=serving/1
"""

from tl_app import cli, workdir
from tl_app.config.rules import RELOADING_FLAGS
from tl_app.errors import UserError


def define_flags():
  cli.define(["workdir", *RELOADING_FLAGS])
  cli.flag("output", "", "Directory of the SavedModel. Empty: export/ in the workdir.", path=True)
  cli.flag(
    "part", "model", "What to export: model, the SavedModel that answers; or backbone, the network without its head."
  )
  cli.flag(
    "candidate",
    "",
    "Candidate to export, a directory in checkpoints/ of the run, such as fine_tuned. Empty: the selected one.",
  )


def main():
  flags = cli.FLAGS
  cli.need("workdir")
  workdir.open_run(flags.workdir)
  if flags.part not in ("model", "backbone"):
    raise UserError(f"--part={flags.part} is not one of: model, backbone")
  cli.start_tensorflow()
  from tl_app.commands import export as command

  if flags.part == "backbone":
    with cli.progress():
      written = command.export_backbone(flags.workdir, flags.output, cli.given(RELOADING_FLAGS), flags.candidate)
    print(f"{written}: --backbone reads it")
    return
  with cli.progress():
    directory, parity, task = command.export(flags.workdir, flags.output, cli.given(RELOADING_FLAGS), flags.candidate)
  print(f"{directory}: {task.answers.describe_shared_parity(parity)}")


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
