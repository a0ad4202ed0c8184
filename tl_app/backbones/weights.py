"""Weights of a checkpoint into a Keras network."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np

from tl_app.errors import UserError


@dataclasses.dataclass(frozen=True)
class Target:
  """Where a tensor of a checkpoint belongs.

  Attributes:
    variable: the `keras.Variable` to set.
    axes: permutation of the tensor's axes; () leaves them.
    reshape: whether the tensor may have another shape of the same size (attention kernels, split into heads).
  """

  variable: keras.Variable
  axes: tuple[int, ...] = ()
  reshape: bool = False


def assign(
  network: keras.Model,
  targets_of: Callable[[keras.Layer], Mapping[str, Target]],
  weights: Mapping[str, np.ndarray],
  source: str | os.PathLike,
  architecture: str,
) -> None:
  """Sets every weight of a network from a checkpoint.

  Args:
    network: `keras.Model`.
    targets_of: function, a layer with weights -> {name in the checkpoint: its `Target`}.
    weights: {name: array} of the checkpoint.
    source: path of the checkpoint, for error messages.
    architecture: what the weights should fit, for error messages.

  Raises:
    UserError: names are missing or left over, or a shape differs.
  """
  targets = {}
  for layer in network.layers:
    if layer.weights:
      targets.update(targets_of(layer))
  missing, extra = sorted(set(targets) - set(weights)), sorted(set(weights) - set(targets))
  if missing or extra:
    raise UserError(f"{source}: the weights do not fit {architecture}: missing {missing}, extra {extra}")
  for name, target in targets.items():
    shape, value = tuple(target.variable.shape), weights[name]
    if len(target.axes) == value.ndim:
      value = value.transpose(target.axes)
    if target.reshape and value.size == math.prod(shape):
      value = value.reshape(shape)
    if value.shape != shape:
      raise UserError(f"{source}: {name} has shape {weights[name].shape}, {target.variable.path} needs {shape}")
    target.variable.assign(value)


def values(variables: Iterable[keras.Variable]) -> list[np.ndarray]:
  """Returns copies of the values of variables."""
  return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
