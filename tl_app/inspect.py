"""Shows the known backbones, one of them (inputs, features, stages, licence), or the weights that a run changed.

python -m tl_app.inspect
python -m tl_app.inspect --backbone=minilm_l6.pypi
python -m tl_app.inspect --workdir=runs/movie_reviews
python -m tl_app.inspect --workdir=runs/movie_reviews --candidate=fine_tuned
"""

from tl_app.commands import cli


def define_flags():
  cli.define([*cli.DOWNLOAD_FLAGS, "backbone", *cli.LOADING_FLAGS])
  cli.flag("workdir", "", "A finished run: compares its export, stage by stage, with the original backbone.", path=True)
  cli.flag(
    "candidate",
    "",
    "Candidate to compare, a directory in checkpoints/ of --workdir, such as fine_tuned. Empty: the selected one.",
  )


def main():
  flags = cli.FLAGS
  from tl_app.commands import arguments

  arguments.inspection(flags.workdir, flags.candidate, cli.given(["backbone", *cli.LOADING_FLAGS]))
  if flags.workdir:
    cli.start_tensorflow()
    from tl_app.commands import inspect_run

    changes = inspect_run.compare(flags.workdir, cli.given(cli.RELOADING_FLAGS), flags.candidate)
    print(inspect_run.table(changes))
    inspect_run.require_agreement(changes)
  elif flags.backbone:
    from tl_app.commands import early_checks

    config = cli.config_from_flags(needed=())
    early_checks.backbone(config)
    cli.start_tensorflow()
    from tl_app.commands import inspect_backbone

    print(inspect_backbone.describe(config))
  else:
    from tl_app.commands import inspect_backbone

    print(inspect_backbone.listing())


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
