"""Pooling: one feature vector for each example from a network's sequence or feature map."""

import keras
from keras import ops


def pool(tensor: keras.KerasTensor, mask: keras.KerasTensor | None, pooling: str) -> keras.KerasTensor:
  """Pools the positions of each example.

  Args:
    tensor: float [batch, length, width], or a feature map [batch, height, width, channels]; for "pooler" a vector
      [batch, width].
    mask: int [batch, length], 1 at the positions that count. None: all positions count.
    pooling: "cls" takes the first position, "mean" and "last4" average, "pooler" returns `tensor` unchanged.

  Returns:
    float [batch, width].
  """
  if pooling == "pooler":
    return tensor
  if pooling == "cls":
    return tensor[:, 0]
  if mask is None:
    return ops.mean(tensor, axis=tuple(range(1, len(tensor.shape) - 1)))
  weights = ops.expand_dims(ops.cast(mask, tensor.dtype), axis=-1)
  return ops.sum(tensor * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)
