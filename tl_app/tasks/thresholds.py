"""Thresholds of probabilities with the highest F1."""

import numpy as np

# A class with fewer examples takes the threshold that is best for all classes together.
FEW = 10


def best(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """Returns the thresholds, float [classes], above which a class is answered for the highest F1.

  A threshold is halfway between two outputs. A class with fewer than `FEW` positive examples takes the threshold that
  is best for all classes together (micro F1): it would overfit to its own few.

  Args:
    outputs: float [n, classes].
    targets: [n, classes] of 0 and 1.
  """
  common = _best_threshold(outputs.reshape(-1), targets.reshape(-1))
  return np.array(
    [
      _best_threshold(column, truth) if truth.sum() >= FEW else common
      for column, truth in zip(np.asarray(outputs).T, np.asarray(targets).T)
    ]
  )


def _best_threshold(outputs, truth):
  order = np.argsort(-outputs, kind="stable")
  ranked = np.float64(outputs[order])
  f1 = 2 * np.cumsum(truth[order]) / (np.arange(1, len(order) + 1) + truth.sum())
  # Equal outputs are on the same side.
  f1[:-1][ranked[:-1] == ranked[1:]] = -1
  last = int(f1.argmax())
  below = ranked[last + 1] if last + 1 < len(ranked) else ranked[last] - max(1e-3, abs(ranked[last]) / 2)
  return (ranked[last] + below) / 2
