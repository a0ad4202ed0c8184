"""The supervised contrastive loss and its batches."""

import keras
import numpy as np
import tensorflow as tf

from tl_app.compute import across_devices

# Divides the cosine similarities, as in Khosla et al. 2020.
TEMPERATURE = 0.1


class SupervisedContrastiveLoss(keras.losses.Loss):
  """The supervised contrastive loss of a batch (Khosla et al. 2020, equation 2), in nats.

  It pulls the features of examples of one class together and pushes those of other classes away. An example that is
  alone in its class has the loss 0.
  """

  def __init__(self):
    super().__init__(name="supervised_contrastive")

  def call(self, labels, features):
    """Returns the loss of each example, float32 [batch]. It is compared with the examples of all devices.

    Args:
      labels: int [batch], or [batch, 1].
      features: float [batch, width], L2-normalised.
    """
    ops = keras.ops
    labels = ops.reshape(labels, (-1,))
    every, first = across_devices.rows(features)
    itself = tf.one_hot(tf.range(tf.shape(features)[0]) + first, tf.shape(every)[0])
    positive = ops.cast(labels[:, None] == across_devices.rows(labels)[0], "float32") - itself
    # Not infinity: 0 * infinity is NaN.
    scores = ops.matmul(features, ops.transpose(every)) / TEMPERATURE - 1e9 * itself
    log_probabilities = scores - ops.logsumexp(scores, axis=1, keepdims=True)
    return -ops.sum(positive * log_probabilities, axis=1) / ops.maximum(ops.sum(positive, axis=1), 1.0)


def batches(labels: np.ndarray, classes: int, examples_per_class: int, steps: int, seed: int) -> tf.data.Dataset:
  """Returns the endless dataset of int32 [classes * examples_per_class] positions in `labels`.

  Classes, and the examples of a class, come in random order, each once before any comes again. After `steps` batches
  the same ones follow.

  Args:
    labels: int [n].
    classes: number of classes of a batch, at most the number of different labels.
    examples_per_class: in a batch.
    steps: number of different batches.
    seed: of the order.
  """
  rng = np.random.default_rng(seed)
  members = [np.flatnonzero(labels == name) for name in np.unique(labels)]
  order = _rounds(len(members), classes, steps, rng)
  chosen = np.empty((steps, classes, examples_per_class), np.int32)
  for number, positions in enumerate(members):
    slots = order == number
    chosen[slots] = positions[_rounds(len(positions), examples_per_class, slots.sum(), rng)]
  return tf.data.Dataset.from_tensor_slices(chosen.reshape(steps, -1)).repeat()


def _rounds(count, size, number, rng):
  """Returns int [number, size] of values below `count`.

  Each value comes once before any comes again, and none twice in a row, as far as `count` allows.
  """
  rows, waiting = [], []
  for _ in range(number):
    while len(waiting) < size:
      # A row that ends one round and begins the next could else hold the same value twice.
      waiting += sorted(rng.permutation(count), key=lambda one: one in waiting)
    rows.append(waiting[:size])
    waiting = waiting[size:]
  return np.array(rows, np.int64).reshape(number, size)
