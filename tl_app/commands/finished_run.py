"""Opens the workdir of a finished run and loads its model."""

import dataclasses
import pathlib

from tl_app import backbones, tasks
from tl_app import workdir as workdir_lib
from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.model import inference
from tl_app.model import model as model_lib
from tl_app.model.model import Model
from tl_app.workdir import Workdir


def opened(workdir: str | pathlib.Path, cache_dir: str = "", offline: bool = False) -> tuple[Workdir, Config, Assets]:
  """Opens a finished run.

  Args:
    workdir: directory of the run.
    cache_dir: as in `Config`; "" for that of the run.
    offline: as in `Config`.

  Returns:
    (`Workdir`, `Config`, `Assets`).

  Raises:
    UserError: the directory holds no finished run.
  """
  paths, config = workdir_lib.open_run(workdir)
  config = dataclasses.replace(config, cache_dir=cache_dir or config.cache_dir, offline=offline or config.offline)
  return paths, config, Assets(config.cache_dir, config.offline)


def restore(paths: Workdir, config: Config, assets: Assets) -> Model:
  """Returns the `Model` of a finished run: its backbone is loaded again, with the weights of the selected model.

  Raises:
    UserError: plan.json or the weights are damaged, or --backbone is another network now.
  """
  model = rebuild(paths, config, assets)
  try:
    model.network.load_weights(paths.weights)
  except (OSError, ValueError, KeyError) as error:
    reason = " ".join(str(error).split())[:200]
    raise UserError(
      f"{paths.weights} does not fit --backbone={config.backbone} ({reason}): one of them has changed; train again"
    ) from None
  return model


def rebuild(paths: Workdir, config: Config, assets: Assets) -> Model:
  """Returns the `Model` as it was before training: the pretrained backbone and a new head.

  Raises:
    UserError: plan.json or the description of the task is damaged.
  """
  try:
    preprocessing = workdir_lib.read(paths.plan)["preprocessing"]
    max_length = preprocessing.get("max_length", 0)
    image_size = preprocessing.get("image_size", config.image_size)
  except (ValueError, KeyError, TypeError, AttributeError):
    raise UserError(f"{paths.plan} is damaged: train again") from None
  try:
    task = tasks.from_config(workdir_lib.read(paths.task))
  except (ValueError, KeyError, TypeError):
    raise UserError(f"{paths.task} is damaged: train again") from None
  config = dataclasses.replace(config, image_size=image_size)
  return model_lib.load(config, backbones.resolve(config.backbone), assets, task, max_length)


def inference_batch(paths: Workdir, model: Model) -> int:
  """Returns the number of examples per forward pass; with --batch_size=auto, the number that the run measured."""
  measured = workdir_lib.read(paths.plan).get("batch_size", {})
  return measured["forward_pass"]["examples"] if measured else inference.inference_batch(model.backbone)


def check_output(output: str) -> None:
  """Raises `UserError` if --output, or a directory above it, is a file."""
  path = pathlib.Path(output)
  nearest = next(parent for parent in (path, *path.parents) if parent.exists())
  if output and not nearest.is_dir():
    raise UserError(f"--output={output}: {nearest} is a file: choose a directory")
