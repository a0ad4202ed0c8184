"""Values of variables: copies, checksums and shapes."""

import hashlib
import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf


def checksums(stages: Mapping[str, Sequence[keras.Variable]]) -> dict[str, list[str]]:
  """Returns {stage: [sha256 hex of the bytes of each variable]}."""
  return {name: [_checksum(variable) for variable in variables] for name, variables in stages.items()}


def fingerprint(stages: Mapping[str, Sequence[keras.Variable]]) -> str:
  """Returns one sha256 hex of all variables of `stages`, in order: it identifies the weights of a network."""
  return hashlib.sha256("".join(sum(checksums(stages).values(), [])).encode()).hexdigest()


def replicas_agree(variable: keras.Variable) -> bool:
  """Returns whether a variable is the same, to the bit, on every device of this process."""
  value = variable.value if isinstance(variable, keras.Variable) else variable
  copies = value.values if isinstance(value, tf.distribute.DistributedValues) else ()
  return len({_checksum(copy) for copy in copies}) <= 1


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
  """Returns (rows, columns) of a kernel seen as a matrix, cut between the axes where it is nearest to square.

  Dense [in, out] stays as it is; EinsumDense [in, heads, size] becomes in x (heads size); a convolution [h, w, in, out]
  becomes (h w in) x out, or nearer to square.
  """
  cuts = [(math.prod(shape[:i]), math.prod(shape[i:])) for i in range(1, len(shape))]
  return max(cuts, key=min)


def _checksum(variable):
  return hashlib.sha256(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes()).hexdigest()
