"""Losses that give rare classes more weight, for one-hot, mixed and multi-label targets."""

from collections.abc import Callable

import keras
import numpy as np

# Of the effective number of examples; Cui et al. 2019 try 0.9 to 0.9999. At 0.999 a class of 100 examples counts as 95,
# one of 1,000 as 632, and more than about 3,000 weigh alike.
BETA = 0.999
# Of the focal loss; the best one of Lin et al. 2017.
GAMMA = 2.0
# Of the logit adjustment; with 1 it is consistent for the mean recall over classes (Menon et al. 2021).
TAU = 1.0


def effective_weights(counts: np.ndarray) -> np.ndarray:
  """Returns weights, float32, by the inverse of the effective number of examples of each class (Cui et al. 2019).

  Args:
    counts: int [classes] of training examples, at least one each. The mean weight over these examples is 1.
  """
  weights = (1 - BETA) / (1 - BETA ** np.asarray(counts, np.float64))
  return (weights * np.sum(counts) / np.sum(weights * counts)).astype(np.float32)


def softmax(counts: np.ndarray, label_smoothing: float, imbalance: str) -> Callable:
  """Returns the cross-entropy of --imbalance, a function of targets, int [batch] or float [batch, classes], and logits.

  Args:
    counts: int [classes] of training examples.
    label_smoothing: share of the target spread over all classes.
    imbalance: "none", "class_weights", "focal" or "logit_adjustment".
  """
  options = {"from_logits": True, "label_smoothing": label_smoothing, "reduction": None}
  if imbalance == "focal":
    entropy = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=GAMMA, **options)
  else:
    entropy = keras.losses.CategoricalCrossentropy(**options)
  shares = np.asarray(counts) / np.sum(counts)
  shift = TAU * np.log(shares) if imbalance == "logit_adjustment" else np.zeros(len(counts))
  weights = effective_weights(counts) if imbalance == "class_weights" else np.ones(len(counts))
  shift, weights = shift.astype(np.float32), weights.astype(np.float32)

  def loss(targets, logits):
    dense = targets if len(targets.shape) == 2 else keras.ops.one_hot(targets, len(counts))
    return entropy(dense, logits + shift) * keras.ops.sum(dense * weights, axis=-1)

  return loss


def sigmoid(positives: np.ndarray, total: int, label_smoothing: float, imbalance: str) -> Callable:
  """Returns the binary cross-entropy of --imbalance, a function of targets, float [batch, classes], and logits.

  Args:
    positives: int [classes] of training examples that have the class.
    total: number of training examples.
    label_smoothing: share of the target spread over yes and no.
    imbalance: "none", "class_weights" (yes and no of each class by their effective numbers) or "focal".
  """
  if imbalance == "focal":
    return keras.losses.BinaryFocalCrossentropy(gamma=GAMMA, from_logits=True, label_smoothing=label_smoothing)
  if imbalance == "none":
    return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)
  # A class that every example has, or none, still has two sides.
  sides = np.stack([total - np.asarray(positives), positives], axis=1).clip(1)
  no, yes = np.stack([effective_weights(side) for side in sides], axis=1)

  def loss(targets, logits):
    smooth = targets * (1 - label_smoothing) + label_smoothing / 2
    # log(1 + exp(z)) - z t, the binary cross-entropy of a logit z.
    entropy = keras.ops.softplus(logits) - logits * smooth
    return keras.ops.mean(entropy * (yes * targets + no * (1 - targets)), axis=-1)

  return loss


def hits(targets, logits):
  """Returns float32 [batch]: whether the largest logit is the target; of mixed ones, the largest share of it."""
  classes = keras.ops.argmax(targets, axis=-1) if len(targets.shape) == 2 else targets
  return keras.ops.cast(keras.ops.equal(keras.ops.cast(classes, "int64"), keras.ops.argmax(logits, axis=-1)), "float32")
