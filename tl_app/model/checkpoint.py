"""The weights of a candidate in the workdir: the variables that its run may have changed."""

import errno
import os
import pathlib
import shutil
from collections.abc import Mapping

import keras
import numpy as np

from tl_app.backbones import tuned
from tl_app.backbones.backbone import parameters
from tl_app.errors import UserError, suggestion
from tl_app.model.model import Model
from tl_app.recipes.phase import HEAD


def arrays(model: Model, changed: Mapping[int, np.ndarray], head_only: bool) -> dict[str, np.ndarray]:
  """Returns {STAGE/POSITION: value} of the variables that distinguish a candidate from the pretrained network.

  Args:
    model: the `Model`.
    changed: {id of a variable: its value in the candidate} of those that the phases may change.
    head_only: whether the phases of the candidate have trained the head only.
  """
  found = {}
  for stage, variables in model.stages.items():
    for position, variable in enumerate(variables):
      if stage != HEAD and (model.backbone.spec.tuned or not model.backbone.pretrained):
        # The run need not find the run that it started from, nor draw the same random weights again.
        found[f"{stage}/{position}"] = changed.get(id(variable), variable)
      elif id(variable) in changed and (stage == HEAD or not head_only):
        found[f"{stage}/{position}"] = changed[id(variable)]
  return found


def write_network(path: pathlib.Path, network: keras.Model) -> None:
  """Writes all weights of a network, without the state of its optimizers, which Keras would write too.

  Raises:
    OSError: the disk is full. Without this check HDF5 would abort the process.
  """
  network = keras.Model(network.inputs, network.outputs)
  for layer in network.layers:
    if isinstance(layer, keras.Model):
      # The head has been fitted alone, unless the run continues after that.
      layer.optimizer = None
  if shutil.disk_usage(path.parent).free < 1.1 * 4 * parameters(network.variables):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
  network.save_weights(path)


def write(path, values: Mapping[str, np.ndarray | keras.Variable]) -> None:
  """Writes the weights of a candidate to a file."""
  np.savez(path, **{key: keras.ops.convert_to_numpy(value) for key, value in values.items()})


def load(model: Model, directory) -> None:
  """Gives a model the weights of a candidate.

  Args:
    model: the `Model` of the run, as it was before training.
    directory: directory of the candidate.

  Raises:
    OSError, ValueError: the weights are missing or do not fit.
  """
  stages = model.stages
  for stage, position, value in tuned.read_weights(directory):
    if stage not in stages or position >= len(stages[stage]):
      raise ValueError(f"stage {stage} has no variable {position}")
    stages[stage][position].assign(value)


def candidates(paths) -> list[str]:
  """Returns the names of the candidates whose weights a `Workdir` has."""
  return sorted(path.parent.name for path in paths.weights.parent.glob(f"*/{tuned.WEIGHTS}"))


def candidate_directory(paths, name: str):
  """Returns the directory of a candidate in a `Workdir`.

  Raises:
    UserError: the run has no such candidate.
  """
  directory = paths.candidate(name)
  if not (directory / tuned.WEIGHTS).is_file():
    found = candidates(paths)
    kept = (
      f"it has {', '.join(found)}" if found else "an earlier tl_app has trained it, which kept the selected one only"
    )
    raise UserError(f"--candidate={name}: the run {paths.root} has no such candidate; {kept}{suggestion(name, found)}")
  return directory
