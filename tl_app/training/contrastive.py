"""Supervised contrast: the backbone learns to put examples of one class near each other, before any head."""

import keras
import numpy as np
import tensorflow as tf

# Divides the cosines, as in Khosla et al. 2020.
TEMPERATURE = 0.1


class SupervisedContrast(keras.losses.Loss):
  """The supervised contrastive loss of a batch (Khosla et al. 2020, equation 2), in nats.

  Each example should be nearer to the others of its class in the batch than to the rest; one that is alone in its
  class counts 0.
  """

  def __init__(self):
    super().__init__(name="supervised_contrast")

  def call(self, labels, features):
    """Returns the loss of each example, float32 [batch].

    Args:
      labels: int [batch], or [batch, 1].
      features: float [batch, width], of length 1.
    """
    ops = keras.ops
    labels = ops.reshape(labels, (-1,))
    itself = ops.eye(ops.shape(features)[0])
    positive = ops.cast(labels[:, None] == labels[None], "float32") - itself
    # Not infinity: 0 * infinity is NaN.
    scores = ops.matmul(features, ops.transpose(features)) / TEMPERATURE - 1e9 * itself
    logs = scores - ops.logsumexp(scores, axis=1, keepdims=True)
    return -ops.sum(positive * logs, axis=1) / ops.maximum(ops.sum(positive, axis=1), 1.0)


def batches(labels, classes, each, steps, seed):
  """Returns the dataset of int32 [classes * each] positions in `labels`, again and again after `steps` batches.

  A batch holds `each` examples of each of its `classes`; classes, and the examples of a class, come in random order,
  each once before any comes again.

  Args:
    labels: int [n].
    classes: of a batch, at most the number of different labels.
    each: examples of a class.
    steps: batches.
    seed: int.
  """
  rng = np.random.default_rng(seed)
  members = [np.flatnonzero(labels == name) for name in np.unique(labels)]
  order = _in_turns(len(members), classes, steps, rng)
  chosen = np.empty((steps, classes, each), np.int32)
  for name, own in enumerate(members):
    places = order == name
    chosen[places] = own[_in_turns(len(own), each, places.sum(), rng)]
  return tf.data.Dataset.from_tensor_slices(chosen.reshape(steps, -1)).repeat()


def _in_turns(count, size, number, rng):
  """Returns int [number, size] of what is below `count`, each once before any comes again, and none twice in a row of
  it, where `count` allows."""
  rows, waiting = [], []
  for _ in range(number):
    while len(waiting) < size:
      # A row that ends one round and begins the next would else hold the same twice.
      waiting += sorted(rng.permutation(count), key=lambda one: one in waiting)
    rows.append(waiting[:size])
    waiting = waiting[size:]
  return np.array(rows, np.int64).reshape(number, size)
