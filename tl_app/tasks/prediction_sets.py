"""Conformal prediction: sets of classes, and intervals of numbers, that hold the truth with a chosen probability.

The probability is that of split conformal prediction (Vovk et al. 2005): over new examples like those of the validation
split, and for `mondrian` for each class by itself. LAC: Sadinle et al. 2019. APS: Romano et al. 2020.
"""

import dataclasses
import math

import numpy as np

from tl_app.tasks import statistics

LAC = "lac"
APS = "aps"
MONDRIAN = "mondrian"
METHODS = (LAC, APS, MONDRIAN)
# A class with fewer examples takes the threshold of all classes together with --set_method=mondrian.
FEW = 50
# Seed of the draws of APS.
SEED = 0


@dataclasses.dataclass(frozen=True)
class SetRule:
  """Which classes are in the prediction set of an example.

  Attributes:
    thresholds: for LAC one number, and for Mondrian one for each class: a class is in the set if its probability is at
      least this. For APS one number: the most probable classes are in the set up to the one with which their sum
      reaches it.
    method: one of `METHODS`.
  """

  thresholds: tuple[float, ...]
  method: str = LAC

  def members(self, probabilities: np.ndarray) -> np.ndarray:
    """Returns bool [n, classes] of probabilities, float [n, classes]: which classes are in the set."""
    if self.method == APS:
      return _sums_before(probabilities) < self.thresholds[0]
    return probabilities >= np.array(self.thresholds)

  def tensor_members(self, probabilities):
    """Returns bool [n, classes] of a float32 tensor [n, classes], as `members`, with TensorFlow operations only."""
    import tensorflow as tf

    thresholds = tf.constant(self.thresholds, tf.float32)
    if self.method != APS:
      return probabilities >= thresholds
    order = tf.argsort(probabilities, axis=1, direction="DESCENDING", stable=True)
    before = tf.cumsum(tf.gather(probabilities, order, batch_dims=1), axis=1, exclusive=True)
    return tf.gather(before < thresholds, tf.argsort(order, axis=1), batch_dims=1)

  def distances(self, probabilities: np.ndarray) -> np.ndarray:
    """Returns float [n, classes]: how far each class is from changing its membership."""
    compared = _sums_before(probabilities) if self.method == APS else probabilities
    return np.abs(compared - np.array(self.thresholds))


def fit(probabilities: np.ndarray, targets: np.ndarray, coverage: float, method: str) -> SetRule:
  """Returns the `SetRule` whose sets hold the true class with probability `coverage`.

  Args:
    probabilities: float [n, classes], of examples that the model was not trained on.
    targets: int [n], their classes.
    coverage: in (0, 1).
    method: one of `METHODS`.
  """
  classes = np.arange(probabilities.shape[1])
  of_truth = probabilities[np.arange(len(targets)), targets]
  if method == APS:
    # Drawn between the sums without and with the class (Romano et al. 2020): the sums with it would ask for too much.
    drawn = np.random.RandomState(SEED).uniform(size=len(targets))
    reached = _sums_before(probabilities)[np.arange(len(targets)), targets] + (1 - drawn) * of_truth
    return SetRule((min(quantile(reached, coverage), 2.0),), APS)
  # Not 1 - quantile(1 - p): by rounding it may be above p, and then the set of an example lacks its own class.
  common = -quantile(-of_truth, coverage)
  if method == LAC:
    return SetRule((float(max(common, 0.0)),), LAC)
  counts = np.bincount(targets, minlength=len(classes))
  of_classes = [
    -quantile(-of_truth[targets == number], coverage) if counts[number] >= FEW else common for number in classes
  ]
  return SetRule(tuple(float(max(value, 0.0)) for value in of_classes), MONDRIAN)


def measure(members: np.ndarray, targets: np.ndarray, seed: int = 0) -> dict:
  """Returns how good prediction sets are, ready for JSON.

  Args:
    members: bool [n, classes], of `SetRule.members`.
    targets: int [n], the true classes.
    seed: of the interval.

  Returns:
    A dict: "measured" (share of the sets that hold the true class) with "measured_ci95", "mean_size", "single" and
    "empty" (shares of the sets with one class and with none).
  """
  held, sizes = members[np.arange(len(targets)), targets], members.sum(axis=1)
  return {
    "measured": float(held.mean()),
    "measured_ci95": statistics.accuracy_interval(int(held.sum()), len(held), seed),
    "mean_size": float(sizes.mean()),
    "single": float(np.mean(sizes == 1)),
    "empty": float(np.mean(sizes == 0)),
  }


def quantile(scores: np.ndarray, coverage: float) -> float:
  """Returns the value that a new score does not exceed with probability `coverage`; infinity with too few scores.

  Args:
    scores: float [n], exchangeable with the new one.
    coverage: in (0, 1).
  """
  # The difference keeps rounding, as in 20 * 0.95, from asking for one more.
  rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
  return math.inf if rank > len(scores) else float(np.sort(scores)[rank - 1])


def _sums_before(probabilities):
  """Returns the sum of the probabilities of the classes that are more probable than each one, float [n, classes]."""
  order = np.argsort(-probabilities, axis=1, kind="stable")
  ranked = np.take_along_axis(probabilities, order, axis=1)
  sums = np.empty(probabilities.shape)
  np.put_along_axis(sums, order, np.cumsum(ranked, axis=1) - ranked, axis=1)
  return sums
