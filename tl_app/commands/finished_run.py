"""Opens the workdir of a finished run and loads its model."""

import dataclasses
import pathlib
import types
from collections.abc import Mapping

import numpy as np

from tl_app import backbones, data, tasks
from tl_app import workdir as workdir_lib
from tl_app.assets import Assets
from tl_app.commands import feature_choices
from tl_app.config import Config
from tl_app.data.examples import Examples, Inputs
from tl_app.data.splitting import splits
from tl_app.errors import UserError
from tl_app.model import checkpoint, inference, ood
from tl_app.model import model as model_lib
from tl_app.model.model import Model
from tl_app.workdir import Workdir


def opened(
  workdir: str | pathlib.Path, downloads: Mapping = types.MappingProxyType({})
) -> tuple[Workdir, Config, Assets]:
  """Opens a finished run.

  Args:
    workdir: directory of the run.
    downloads: {name: value} of the flags `rules.RELOADING_FLAGS` that replace those of the run. The config.json of a
      run is no reason for trust in its backbone.

  Returns:
    (`Workdir`, `Config`, `Assets`). `data_config` finds its data.

  Raises:
    UserError: the directory holds no finished run.
  """
  paths, config = workdir_lib.open_run(workdir)
  # Those of the run may have been left on another machine.
  absent = {name: "" for name in ("bundle", "lock") if not pathlib.Path(getattr(config, name)).is_file()}
  config = dataclasses.replace(config, **absent | {"trust_backbone": False} | dict(downloads))
  return paths, config, Assets.of(config)


def restore(paths: Workdir, config: Config, assets: Assets, candidate: str = "") -> Model:
  """Returns the `Model` of a finished run: its backbone is loaded again, with the weights of a candidate.

  Args:
    paths: the `Workdir`.
    config: the `Config` of the run.
    assets: the `Assets`.
    candidate: name of the candidate; "" for the selected one.

  Raises:
    UserError: plan.json or the weights are damaged, --backbone is another network now, or there is no such candidate.
  """
  directory = checkpoint.candidate_directory(paths, candidate) if candidate else None
  weights = directory or paths.weights
  # The weights are complete: a run that started from another one does not need that one.
  origin = workdir_lib.read_plan(paths).get("origin", {})
  task = directory / paths.task.name if directory else paths.task
  model = _load(paths, dataclasses.replace(config, **origin), assets, task)
  try:
    if directory:
      checkpoint.load(model, directory)
    else:
      model.network.load_weights(workdir_lib.verified(weights))
      if paths.ood.exists():
        model = dataclasses.replace(model, ood=ood.load(workdir_lib.verified(paths.ood)))
  except (OSError, ValueError, KeyError) as error:
    reason = " ".join(str(error).split())[:200]
    raise UserError(
      f"{weights} does not fit --backbone={config.backbone} ({reason}): one of them has changed; train again"
    ) from None
  return model


def rebuild(paths: Workdir, config: Config, assets: Assets) -> Model:
  """Returns the `Model` as it was before training: the backbone as the run has loaded or drawn it.

  Raises:
    UserError: plan.json or the description of the task is damaged.
  """
  model = _load(paths, config, assets, paths.task)
  if not model.backbone.pretrained:
    # The probe has the initial weights, which are drawn only once.
    checkpoint.load(model, checkpoint.candidate_directory(paths, "probe"))
  return model


def _load(paths, config, assets, task_path):
  try:
    plan = workdir_lib.read_plan(paths)
    preprocessing, config = plan["preprocessing"], feature_choices.recorded(config, plan)
    max_length = preprocessing.get("max_length", 0)
    image_size = preprocessing.get("image_size", config.image_size)
  except (KeyError, TypeError, AttributeError):
    raise UserError(f"{paths.plan} is damaged: train again") from None
  try:
    task = tasks.from_config(workdir_lib.read(task_path))
  except (OSError, ValueError, KeyError, TypeError):
    raise UserError(f"{task_path} is damaged: train again") from None
  names = [name for name in ("backbone", "preprocessor") if not backbones.is_known(getattr(config, name))]
  config = workdir_lib.located(paths, dataclasses.replace(config, image_size=image_size), names)
  spec = dataclasses.replace(
    backbones.resolve(config.backbone), vocabulary=workdir_lib.read_vocabulary(paths.vocabulary)
  )
  return model_lib.load(config, spec, assets, task, max_length)


def data_config(paths: Workdir, config: Config, flags: Mapping = types.MappingProxyType({})) -> Config:
  """Returns the `Config` of a run with the data flags that were given, and its other paths as they lead to files now.

  Args:
    paths: the `Workdir`.
    config: the `Config` of the run.
    flags: {name: value} of data flags. What the run has besides --dataset does not belong to another
      data set.

  Raises:
    UserError: a path of the run leads nowhere.
  """
  if flags.get("dataset"):
    names = ("validation_dataset", "test_dataset", "slice_columns", "corrections")
    flags = dict.fromkeys(names, "") | dict(flags)
  config = dataclasses.replace(config, **flags)
  names = ("dataset", "validation_dataset", "test_dataset", "data_dir", "corrections")
  return workdir_lib.located(paths, config, [name for name in names if name not in flags])


def split_examples(paths: Workdir, config: Config, assets: Assets) -> splits.Splits:
  """Returns all examples of the run, and their splits.

  Raises:
    UserError: a path of the run leads nowhere, or the data have changed.
  """
  examples = data.load(data_config(paths, config), assets, known=splits.hashes(paths.splits))
  return splits.read(paths.splits, examples)


def test_examples(paths: Workdir, config: Config, assets: Assets) -> Examples:
  """Returns the examples of the run's own test split.

  Raises:
    UserError: a path of the run leads nowhere, or the data have changed.
  """
  split = split_examples(paths, config, assets)
  return split.examples.take(split.test)


def inference_batch(paths: Workdir, model: Model) -> int:
  """Returns the number of examples per forward pass; with --batch_size=auto, the number that the run measured."""
  measured = workdir_lib.read_plan(paths).get("batch_size", {})
  return measured["forward_pass"]["examples"] if measured else inference.inference_batch(model.backbone)


def ood_scores(model: Model, inputs: Inputs, logits: np.ndarray, batch_size: int) -> np.ndarray | None:
  """Returns the out-of-distribution scores of inputs, float64 [n], or None if the model has none.

  Args:
    model: the `Model`.
    inputs: `Inputs`.
    logits: those of the model, float32 [n, outputs].
    batch_size: number of examples per forward pass.
  """
  if model.ood is None:
    return None
  features = inference.predict(model.features, model.backbone, inputs, batch_size)
  return model.ood.score(features, model.task.answers.certainty(logits))


def check_output(output: str) -> None:
  """Raises `UserError` if --output, or a directory above it, is a file."""
  path = pathlib.Path(output)
  nearest = next(parent for parent in (path, *path.parents) if parent.exists())
  if output and not nearest.is_dir():
    raise UserError(f"--output={output}: {nearest} is a file: choose a directory")
