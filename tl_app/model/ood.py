"""Out-of-distribution score: how unlike the training data an input is.

It joins what the features and what the logits tell: the mean cosine similarity to the nearest training features (Sun et
al. 2022) and the highest logit (Hendrycks et al. 2022), each standardised on the validation split. docs/certainty.md
has the comparison with other scores. The score is 1 minus the conformal p-value of this sum (Vovk et al. 2005).
"""

import dataclasses
import pathlib

import numpy as np

from tl_app import files

# Nearest training features, and training features that are kept: with 2,000 the model grows by 3 MB of 384 features.
NEIGHBOURS, MOST = 3, 2000
# Least distance of the points of the distribution that are kept, and least standard deviations of similarity and of
# certainty: rounding errors of float32 must not show in the score.
LEAST_GAP, LEAST_DEVIATIONS = 1e-3, (1e-4, 1e-2)
# Largest rounding error of a cosine similarity, and of a logit as a share of it; largest error of the score by these.
_ROUNDING, _MOST_ERROR = 5e-7, 1e-3
# Bytes of the similarities that are held at once.
_CHUNK_BYTES = 2**26


@dataclasses.dataclass(frozen=True, eq=False)
class OodScore:
  """The out-of-distribution score of a model.

  Attributes:
    references: float32 [k, width], features of training examples, of length 1.
    moments: float32 [2, 2], mean and standard deviation, on the validation split, of similarity and certainty.
    points: float32 [m], increasing: values of the sum.
    levels: float32 [m], from 0 to 1: share of the validation examples whose sum is at most the point.
  """

  references: np.ndarray
  moments: np.ndarray
  points: np.ndarray
  levels: np.ndarray

  def score(self, features: np.ndarray, certainty: np.ndarray | None) -> np.ndarray:
    """Returns the score, float64 [n] in [0, 1]: the share of the validation examples that are less unlike.

    Args:
      features: float32 [n, width].
      certainty: of `Answers.certainty`, [n], or None.
    """
    return 1 - np.interp(
      _sums(similarities(features, self.references), certainty, self.moments), self.points, self.levels
    )

  def tensor_score(self, features, certainty, references):
    """Returns the score, float32 [batch], as `score`, with TensorFlow operations only.

    Args:
      features: float32 tensor [batch, width].
      certainty: float32 tensor [batch], or None.
      references: `references` as a tensor or variable.
    """
    import tensorflow as tf

    alike = tf.matmul(tf.math.l2_normalize(features, axis=1), references, transpose_b=True)
    nearest = tf.math.top_k(alike, min(NEIGHBOURS, len(self.references))).values
    sums = _sums(tf.reduce_mean(nearest, axis=1), certainty, self.moments)
    points, levels = tf.constant(self.points), tf.constant(self.levels)
    after = tf.clip_by_value(tf.searchsorted(points, sums, side="right"), 1, len(self.points) - 1)
    left, right = tf.gather(points, after - 1), tf.gather(points, after)
    low, high = tf.gather(levels, after - 1), tf.gather(levels, after)
    return 1 - (low + (high - low) * tf.clip_by_value((sums - left) / (right - left), 0.0, 1.0))

  def save(self, path: pathlib.Path) -> None:
    """Writes the score as an .npz file."""
    with files.atomic_path(path) as new, open(new, "wb") as file:
      np.savez(file, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


def load(path: pathlib.Path) -> OodScore:
  """Returns what `OodScore.save` wrote.

  Raises:
    OSError, ValueError, KeyError: the file is damaged.
  """
  with np.load(path) as arrays:
    return OodScore(**{field.name: arrays[field.name] for field in dataclasses.fields(OodScore)})


def fit(training: np.ndarray, validation: np.ndarray, certainty: np.ndarray | None) -> OodScore:
  """Returns the `OodScore` of a model.

  Args:
    training: float32 [k, width], features of at most `MOST` training examples, of all classes.
    validation: float32 [n, width], features of the validation split, n is at least 1.
    certainty: of `Answers.certainty` on the validation split, [n], or None.
  """
  references = _of_length_one(training)
  alike = similarities(validation, references)
  columns = [alike] if certainty is None else [alike, certainty]
  moments = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)
  for row, column, least in zip(moments, columns, LEAST_DEVIATIONS):
    row[:] = np.mean(column, dtype=np.float64), max(np.std(column, dtype=np.float64), least)
  largest = 1.0 if certainty is None else max(1.0, float(np.abs(certainty).max()))
  rounding = _ROUNDING * (1 / float(moments[0, 1]) + (0 if certainty is None else largest / float(moments[1, 1])))
  points, levels = _distribution(_sums(alike, certainty, moments), rounding)
  return OodScore(references, moments, points, levels)


def similarities(features: np.ndarray, references: np.ndarray) -> np.ndarray:
  """Returns the mean cosine similarity to the nearest references, float32 [n].

  Args:
    features: float32 [n, width].
    references: float32 [k, width], of length 1.
  """
  count, step = min(NEIGHBOURS, len(references)), max(1, _CHUNK_BYTES // (4 * len(references)))
  found = [
    np.partition(_of_length_one(features[start : start + step]) @ references.T, -count, axis=1)[:, -count:].mean(axis=1)
    for start in range(0, len(features), step)
  ]
  return np.concatenate(found)


def spread(classes: np.ndarray, most: int = MOST) -> np.ndarray:
  """Returns the positions of at most `most` examples, evenly over the classes, int [k].

  Args:
    classes: object array [n] of tuples of class names, see `Examples.classes`.
    most: largest number.
  """
  order = np.array(sorted(range(len(classes)), key=lambda position: (classes[position], position)))
  return order[np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))]


def _of_length_one(features):
  return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)


def _sums(alike, certainty, moments):
  """Returns the sum of the standardised values [n], arrays or tensors; higher for inputs like the training data."""
  (mean, deviation), (other_mean, other_deviation) = moments
  standardised = (alike - mean) / deviation
  return standardised if certainty is None else standardised + (certainty - other_mean) / other_deviation


def _distribution(sums, rounding):
  """Returns (points, levels) of `OodScore` for the sums on the validation split.

  A new sum is at most the i-th of n sums with probability i / (n + 1). Beyond them the level goes on to 0 and 1. Where
  nearly all features are alike, sums differ by little more than `rounding`: points are removed until the level rises
  by at most `_MOST_ERROR` over so small a difference.

  Args:
    sums: float [n].
    rounding: largest rounding error of a sum.
  """
  ranked = np.sort(np.float32(sums))
  width = max(float(ranked[-1] - ranked[0]), 1.0, rounding / _MOST_ERROR)
  points = np.concatenate([[ranked[0] - width], ranked, [ranked[-1] + width]]).astype(np.float32)
  levels = (np.arange(len(points)) / (len(points) - 1)).astype(np.float32)
  # Of nearly equal sums the last one: its rank counts them all.
  cell = np.floor((points - points[0]) / LEAST_GAP)
  last = np.append(np.diff(cell) > 0, True)
  far = np.append(np.diff(points[last]) > LEAST_GAP / 2, True)
  points, levels = points[last][far], levels[last][far]
  kept = [len(points) - 1]
  for place in reversed(range(1, len(points) - 1)):
    if points[kept[-1]] - points[place] >= (levels[kept[-1]] - levels[place]) * rounding / _MOST_ERROR:
      kept.append(place)
  kept = [0, *reversed(kept)]
  return points[kept], levels[kept]
