"""Backbones that start from a fine-tuned network: a finished run, one of its candidates, or an export of tl_app.

The network is built as the run built it, from the pretrained one, and gets the weights of the run. Finding what to load
needs no TensorFlow.
"""

import dataclasses
import json
import pathlib
import typing
from collections.abc import Iterator

from tl_app import config as config_lib
from tl_app import workdir as workdir_lib
from tl_app.backbones.spec import Origin
from tl_app.errors import UserError
from tl_app.files import checksums
from tl_app.recipes.phase import HEAD
from tl_app.workdir import EXPORT_FACTS, EXPORT_VARIABLE

if typing.TYPE_CHECKING:
  import numpy as np

  from tl_app.backbones.backbone import Backbone

# File of the weights in the directory of a candidate: {STAGE/POSITION: array}.
WEIGHTS = "weights.npz"


def is_tuned(directory: pathlib.Path) -> bool:
  """Returns whether a directory is a run, a candidate of a run, or an export of tl_app."""
  return any((directory / name).is_file() for name in (EXPORT_FACTS, WEIGHTS)) or is_run(directory)


def is_run(directory: pathlib.Path) -> bool:
  """Returns whether a directory is the workdir of a run."""
  return (directory / "config.json").is_file() and (directory / "plan.json").is_file()


def origin(directory: pathlib.Path) -> Origin:
  """Returns from which pretrained network the weights of a run, a candidate or an export were trained.

  Raises:
    UserError: the run is not finished, or a file is damaged.
  """
  try:
    if (directory / EXPORT_FACTS).is_file():
      return _of_export(directory)
    run = directory.parent.parent if (directory / WEIGHTS).is_file() else directory
    return _of_run(run)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"--backbone={directory} is damaged ({reason}): train or export it again") from None


def vocabulary(directory: pathlib.Path) -> tuple[str, ...]:
  """Returns the learnt vocabulary of a run, a candidate or an export; () if its network had its own."""
  if (directory / workdir_lib.EXPORT_FACTS).is_file():
    return workdir_lib.read_vocabulary(directory / workdir_lib.EXPORT_VOCABULARY)
  run = directory.parent.parent if (directory / WEIGHTS).is_file() else directory
  return workdir_lib.read_vocabulary(workdir_lib.Workdir(run).vocabulary)


def assign(backbone: "Backbone", directory: pathlib.Path) -> None:
  """Gives a backbone the weights of a run, a candidate or an export, and adds a note about it.

  Args:
    backbone: the `Backbone`, loaded as `origin` says.
    directory: what was given as --backbone.

  Raises:
    UserError: the weights do not fit.
  """
  if (directory / EXPORT_FACTS).is_file():
    weights, note = _export_weights(directory), "the weights are those of the export"
  elif (directory / WEIGHTS).is_file():
    weights, note = read_weights(directory), f"the weights are those of the candidate {directory.name}"
  else:
    name = selected(directory)
    weights, note = read_weights(directory / "checkpoints" / name), f"the weights are those of the run: {name}"
    if name == "probe" and (directory / "checkpoints" / "fine_tuned").is_dir():
      note += f", which trained the head only; {directory}/checkpoints/fine_tuned has the fine-tuned weights"
  for stage, position, value in weights:
    if stage == HEAD:
      continue
    variables = backbone.stages.get(stage, [])
    if position >= len(variables) or tuple(variables[position].shape) != value.shape:
      has = list(variables[position].shape) if position < len(variables) else "no such variable"
      raise UserError(
        f"--backbone={directory}: variable {position} of stage {stage} has shape {list(value.shape)}, the pretrained "
        f"network has {has}: remove --image_size, or check that {backbone.spec.origin.backbone} is the same as then"
      )
    variables[position].assign(value)
  backbone.notes.append(note)


def selected(run: pathlib.Path) -> str:
  """Returns the name of the candidate that a finished run has selected."""
  metrics = workdir_lib.read(workdir_lib.Workdir(run).metrics)
  return metrics.get("selected_candidate") or metrics["selected"]


def _of_run(run):
  paths, config = workdir_lib.open_run(run)
  if not (run / "checkpoints" / selected(run) / WEIGHTS).is_file():
    if (paths.export / EXPORT_FACTS).is_file():
      return _of_export(paths.export)
    raise UserError(f"--backbone={run} was trained by an earlier tl_app: python -m tl_app.export --workdir={run}")
  kept = workdir_lib.read(paths.plan).get("origin")
  if kept:
    config = dataclasses.replace(config, **kept)
  return _from_config(workdir_lib.located(paths, config, ("backbone", "preprocessor")))


def _of_export(export):
  facts = json.loads(checksums.verified(export / EXPORT_FACTS, checksums.EXPORT_AGAIN).read_bytes())
  if facts.get("stages") is None:
    raise UserError(f"--backbone={export} does not say its stages: export the run again, python -m tl_app.export")
  if facts.get("origin"):
    return Origin(**facts["origin"])
  beside = export.parent / "config.json"
  if beside.is_file():
    return _from_config(config_lib.from_json(beside.read_text(encoding="utf-8"), str(beside)))
  return Origin(facts["backbone"])


def _from_config(config):
  return Origin(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Origin)})


def _export_weights(export) -> Iterator[tuple[str, int, "np.ndarray"]]:
  import numpy as np
  import tensorflow as tf

  checksums.verify_all(export, checksums.EXPORT_AGAIN)
  stages = json.loads((export / EXPORT_FACTS).read_bytes())["stages"]
  try:
    reader = tf.train.load_checkpoint(str(export / "variables" / "variables"))
  except (ValueError, tf.errors.OpError) as error:
    raise UserError(f"--backbone={export} holds no readable weights: {str(error).splitlines()[0]}") from None
  for stage, rows in stages.items():
    for position, (_, of_export) in enumerate(rows):
      yield stage, position, np.asarray(reader.get_tensor(EXPORT_VARIABLE.format(position=of_export)))


def read_weights(directory: pathlib.Path) -> Iterator[tuple[str, int, "np.ndarray"]]:
  """Yields (stage, position in the stage, value) of the variables that a candidate keeps."""
  import numpy as np

  with np.load(checksums.verified(directory / WEIGHTS)) as arrays:
    for key in arrays.files:
      stage, _, position = key.rpartition("/")
      yield stage, int(position), arrays[key]
