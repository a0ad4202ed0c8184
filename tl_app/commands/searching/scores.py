"""Scores of features without training: how well a linear model could explain the targets.

LogME: You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", with the fixed-point
iteration of You et al. 2022. H-score: Bao et al. 2019, with the shrinkage of Ibrahim et al. 2022.
"""

import numpy as np

# Largest number of steps of the fixed-point iteration, and the relative change at which it ends.
STEPS, TOLERANCE = 100, 1e-4
# In place of 0: for features that do not vary.
LEAST = 1e-30


def logme(features: np.ndarray, targets: np.ndarray) -> float:
  """Returns the mean over the outputs of the logarithm of the maximum evidence, by example.

  Args:
    features: float [n, width].
    targets: float [n, outputs]: one-hot for classes, numbers for regression.
  """
  x, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
  n, width = x.shape
  u, s, _ = np.linalg.svd(x, full_matrices=False)
  squares = np.square(s)
  # Parts of the targets along the left singular vectors, and what lies outside them.
  along = np.square(u.T @ y)
  outside = np.maximum(np.square(y).sum(axis=0) - along.sum(axis=0), 0.0)
  return float(np.mean([_evidence(squares, along[:, k], outside[k], n, width) for k in range(y.shape[1])]))


def _evidence(squares, along, outside, n, width):
  """Returns the logarithm of the maximum evidence of one output, divided by the number of examples."""
  ratio = 1.0
  for _ in range(STEPS):
    weights_norm, rest, gamma = _moments(squares, along, outside, ratio)
    alpha, beta = gamma / max(weights_norm, LEAST), (n - gamma) / max(rest, LEAST)
    new = max(alpha / beta, LEAST)
    done = abs(new - ratio) <= TOLERANCE * ratio
    ratio = new
    if done:
      break
  weights_norm, rest, gamma = _moments(squares, along, outside, ratio)
  alpha, beta = max(gamma / max(weights_norm, LEAST), LEAST), (n - gamma) / max(rest, LEAST)
  log_determinant = np.log(alpha + beta * squares).sum() + (width - len(squares)) * np.log(alpha)
  evidence = width * np.log(alpha) + n * np.log(beta) - n * np.log(2 * np.pi)
  return (evidence - log_determinant - beta * rest - alpha * weights_norm) / (2 * n)


def _moments(squares, along, outside, ratio):
  """Returns (squared norm of the mean weights, squared residual, effective number of parameters) for alpha / beta."""
  shrunk = squares + ratio
  weights_norm = (squares * along / np.square(shrunk)).sum()
  rest = (np.square(ratio / shrunk) * along).sum() + outside
  return weights_norm, rest, (squares / shrunk).sum()


def h_score(features: np.ndarray, classes: np.ndarray) -> float:
  """Returns the trace of the inverse covariance of the features times the covariance of their class means.

  The covariance is shrunk towards a multiple of the identity by the share of Ledoit and Wolf.

  Args:
    features: float [n, width].
    classes: int [n].
  """
  import sklearn.covariance

  x = np.asarray(features, np.float64)
  x = x - x.mean(axis=0)
  covariance, shrinkage = sklearn.covariance.ledoit_wolf(x, assume_centered=True)
  names, index = np.unique(classes, return_inverse=True)
  counts = np.bincount(index)
  sums = np.zeros((len(names), x.shape[1]))
  np.add.at(sums, index, x)
  means = sums / counts[:, None]
  between = (means * counts[:, None]).T @ means / len(x)
  # Features that do not vary have no inverse.
  return float((1 - shrinkage) * np.sum(np.linalg.pinv(covariance, hermitian=True) * between))
