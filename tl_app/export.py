"""Exports a finished run again, and checks the export on the run's own test split.

python -m tl_app.export --workdir=runs/movie_reviews --output=serving/1
"""

from tl_app.commands import cli


def define_flags():
  cli.define(["workdir", *cli.RELOADING_FLAGS])
  cli.flag("output", "", "Directory of the SavedModel. Empty: export/ in the workdir.", path=True)
  cli.flag(
    "part",
    "model",
    "What to export. model: the SavedModel that answers. backbone: the network without its head.",
    choices=("model", "backbone"),
  )
  cli.flag(
    "candidate",
    "",
    "Candidate to export, a directory in checkpoints/ of the run, such as fine_tuned. Empty: the selected one.",
  )


def main():
  flags = cli.FLAGS
  cli.need("workdir")
  from tl_app.commands import arguments

  arguments.finished_run(flags.workdir)
  cli.start_tensorflow()
  from tl_app.commands import export

  downloads = cli.given(cli.RELOADING_FLAGS)
  if flags.part == "backbone":
    with cli.progress():
      written = export.export_backbone(flags.workdir, flags.output, downloads, flags.candidate)
    print(f"{written}: --backbone reads it")
    return
  with cli.progress():
    directory, parity, task = export.export(flags.workdir, flags.output, downloads, flags.candidate)
  print(f"{directory}: {task.answers.describe_shared_parity(parity)}")


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
