"""Shows the known backbones, one of them (inputs, features, stages, licence), or the weights that a run changed.

python -m tl_app.inspect
python -m tl_app.inspect --backbone=minilm_l6.pypi
python -m tl_app.inspect --workdir=runs/movie_reviews
python -m tl_app.inspect --workdir=runs/movie_reviews --candidate=fine_tuned
"""

from tl_app import backbones, cli, workdir
from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.config.rules import DOWNLOAD_FLAGS, LOADING_FLAGS, RELOADING_FLAGS
from tl_app.errors import UserError


def define_flags():
  cli.define([*DOWNLOAD_FLAGS, "backbone", *LOADING_FLAGS])
  cli.flag("workdir", "", "A finished run: compares its export, stage by stage, with the original backbone.", path=True)
  cli.flag(
    "candidate",
    "",
    "Candidate to compare, a directory in checkpoints/ of --workdir, such as fine_tuned. Empty: the selected one.",
  )


def main():
  flags = cli.FLAGS
  if flags.candidate and not flags.workdir:
    raise UserError(f"--candidate={flags.candidate} is of a run: give its --workdir")
  if flags.workdir:
    inspect_run(flags)
  elif flags.backbone:
    inspect_backbone(flags)
  else:
    from tl_app.commands import inspect_backbone as command

    print(command.listing())


def inspect_backbone(flags):
  backbones.resolve(flags.backbone)
  cli.start_tensorflow()
  from tl_app.commands import inspect_backbone as command

  config = Config(**{name: flags[name].value for name in [*DOWNLOAD_FLAGS, "backbone", *LOADING_FLAGS]})
  print(command.describe(config, Assets.of(config)))


def inspect_run(flags):
  if set(cli.given(["backbone", *LOADING_FLAGS])) - {"trust_backbone"}:
    raise UserError("--workdir names a run, which has a backbone: remove --backbone and its flags")
  workdir.open_run(flags.workdir)
  cli.start_tensorflow()
  from tl_app.commands import inspect_run as command

  changes = command.compare(flags.workdir, cli.given(RELOADING_FLAGS), flags.candidate)
  print(command.table(changes))
  command.require_agreement(changes)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
