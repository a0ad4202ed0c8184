"""Calibration of probabilities, and how well they are calibrated.

Temperature scaling: Guo et al. 2017. Platt scaling: Platt 1999. Expected calibration error: Naeini et al. 2015.
"""

import math

import numpy as np
import scipy.optimize
import scipy.special

from tl_app.tasks import statistics

BINS = 15
FOLDS = 5
# A class with fewer examples of either kind takes the Platt scaling of all classes together.
FEW = 30
# Standard deviation of the normal prior of log(temperature) and of the parameters of Platt scaling around "no change".
# Without it a validation split without any error would lead to a temperature of 0.
PRIOR = 1.0
# Bounds of log(temperature).
_LIMIT = 4.0


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
  """Returns the temperature, above 0, by which logits are divided so that their softmax is calibrated.

  It is the most probable one under a log-normal prior around 1, so the cross-entropy of these examples is never
  higher than without it.

  Args:
    logits: float [n, classes].
    targets: int [n], the true classes.
  """
  logits = np.float64(logits)

  def cost(log_temperature):
    fitted = len(targets) * statistics.cross_entropy(logits / np.exp(log_temperature), targets)
    return fitted + log_temperature**2 / (2 * PRIOR**2)

  found = scipy.optimize.minimize_scalar(cost, bounds=(-_LIMIT, _LIMIT), method="bounded", options={"xatol": 1e-4})
  return float(np.exp(found.x)) if found.fun < cost(0.0) else 1.0


def compare_losses(first: np.ndarray, second: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
  """Returns (the difference of the mean cross-entropies of two models, p-value of the paired randomisation test).

  Each has its own temperature first.

  Args:
    first, second: logits of the same examples, float [n, classes].
    targets: int [n], the true classes.
  """
  rows = np.arange(len(targets))
  one, two = (
    -statistics.log_softmax(logits / fit_temperature(logits, targets))[rows, targets] for logits in (first, second)
  )
  p_value = statistics.randomisation([(one[:, None], two[:, None], lambda sums: sums[..., 0])])
  return float(np.mean(one - two)), p_value


def fit_platt(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns (slopes, offsets), float [classes] each, with which sigmoid(slope * logit + offset) is calibrated.

  A class with fewer than `FEW` positive or negative examples takes those of all classes together. Slopes are above 0,
  so that the order of the examples stays.

  Args:
    logits: float [n, classes].
    targets: float [n, classes] of 0 and 1.
  """
  logits, targets = np.float64(logits), np.float64(targets)
  common = _fit_sigmoid(logits.ravel(), targets.ravel())
  fitted = [
    _fit_sigmoid(column, truth) if min(truth.sum(), len(truth) - truth.sum()) >= FEW else common
    for column, truth in zip(logits.T, targets.T)
  ]
  slopes, offsets = np.transpose(fitted)
  return slopes, offsets


def _fit_sigmoid(logits, targets):
  def cost(parameters):
    values = np.exp(parameters[0]) * logits + parameters[1]
    loss = np.sum(np.logaddexp(0, values) - values * targets) + np.sum(np.square(parameters)) / (2 * PRIOR**2)
    error = scipy.special.expit(values) - targets
    gradient = np.array([error @ (np.exp(parameters[0]) * logits), error.sum()]) + parameters / PRIOR**2
    return loss, gradient

  start = np.zeros(2)
  found = scipy.optimize.minimize(cost, start, jac=True, method="L-BFGS-B", bounds=[(-_LIMIT, _LIMIT), (-20, 20)])
  slope, offset = found.x if found.fun < cost(start)[0] else start
  return float(np.exp(slope)), float(offset)


def folds(count: int) -> np.ndarray:
  """Returns the fold, int [count] in [0, `FOLDS`), of each example; examples that lie side by side differ."""
  return np.arange(count) % FOLDS


def of_one_class(logits: np.ndarray, targets: np.ndarray) -> dict:
  """Returns `quality` of the most probable classes, with "loss" (cross-entropy in nats) and "brier".

  "brier" is the squared distance of the probabilities from the truth, summed over the classes (Brier 1950).

  Args:
    logits: float [n, classes].
    targets: int [n], the true classes.
  """
  probabilities = statistics.softmax(logits)
  of_truth = probabilities[np.arange(len(targets)), targets]
  squared = np.sum(np.square(probabilities), axis=1) - 2 * of_truth + 1
  return {
    "loss": statistics.cross_entropy(logits, targets),
    "brier": float(np.mean(squared)),
  } | quality(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets)


def quality(scores: np.ndarray, right: np.ndarray) -> dict:
  """Returns how well scores say how often the answers are right, ready for JSON.

  Args:
    scores: float [n], the probability that each answer is right.
    right: bool [n].

  Returns:
    A dict: "ece" (mean distance between score and share of right answers over `BINS` bins of equal width, weighted by
    their examples), "adaptive_ece" (the same over bins with equally many examples), "ece_if_calibrated" (the mean "ece"
    that perfectly calibrated scores would have with so many examples), and "reliability": [mean score, share of right
    answers, examples] of each bin with examples.
  """
  scores, right = np.float64(scores), np.asarray(right, bool)
  bins = _equal_width(scores)
  return {
    "ece": _error(scores, right, bins),
    "adaptive_ece": _error(scores, right, _equal_mass(scores)),
    "ece_if_calibrated": expected_error_if_calibrated(scores),
    "reliability": [
      [float(scores[bins == number].mean()), float(right[bins == number].mean()), int(np.sum(bins == number))]
      for number in np.unique(bins)
    ],
  }


def expected_error_if_calibrated(scores: np.ndarray) -> float:
  """Returns the mean expected calibration error of answers that are right exactly as often as `scores`, float [n], say.

  It is above 0, since a bin has few examples: a measured error below it shows nothing. It is the sum over the bins of
  the mean distance of the number of right answers from its expectation, divided by n.
  """
  bins = _equal_width(scores)
  return float(sum(mean_deviation(np.float64(scores)[bins == number]) for number in np.unique(bins)) / len(scores))


def mean_deviation(probabilities: np.ndarray) -> float:
  """Returns E|X - E X| of the number X of successes in independent trials with these probabilities, float [n].

  It is that of the binomial distribution with the same mean (de Moivre 1730; Diaconis & Zabell 1991), scaled to the
  standard deviation of X: exact where the probabilities are equal, and sqrt(2 Var X / pi), that of the normal
  distribution, in the limit of a large variance.
  """
  count, mean = len(probabilities), probabilities.mean()
  if not 0 < mean < 1:
    return 0.0
  above = min(math.floor(count * mean) + 1, count)
  combinations = scipy.special.gammaln([count + 1, above, count - above + 1]) @ [1, -1, -1]
  binomial = 2 * math.exp(combinations + above * math.log(mean) + (count - above + 1) * math.log1p(-mean))
  return binomial * math.sqrt(np.sum(probabilities * (1 - probabilities)) / (count * mean * (1 - mean)))


def risk_coverage(scores: np.ndarray, right: np.ndarray) -> dict:
  """Returns how the share of wrong answers falls where answers with low scores are withheld, ready for JSON.

  Args:
    scores: float [n].
    right: bool [n].

  Returns:
    A dict: "aurc" (the mean of the error over all shares of answered examples; Geifman & El-Yaniv 2017) and "points":
    [share of examples that are answered, lowest score among them, share of wrong answers among them] at the shares
    0.05, 0.1, .., 1.
  """
  order = np.argsort(-np.float64(scores), kind="stable")
  wrong = np.cumsum(~np.asarray(right, bool)[order]) / np.arange(1, len(order) + 1)
  ends = np.unique(np.ceil(np.arange(1, 21) / 20 * len(order)).astype(int)) - 1
  points = [[(end + 1) / len(order), float(scores[order[end]]), float(wrong[end])] for end in ends]
  return {"aurc": float(wrong.mean()), "points": points}


def _equal_width(scores):
  return np.clip((np.asarray(scores) * BINS).astype(int), 0, BINS - 1)


def _equal_mass(scores):
  bins = np.empty(len(scores), int)
  bins[np.argsort(scores, kind="stable")] = np.arange(len(scores)) * min(BINS, len(scores)) // len(scores)
  return bins


def _error(scores, right, bins):
  gaps = np.bincount(bins, np.float64(right) - scores, minlength=1)
  return float(np.abs(gaps).sum() / len(scores))
