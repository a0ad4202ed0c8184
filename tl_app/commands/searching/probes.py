"""Linear probes in closed form with cross-validation, and nearest neighbours: how good features are, in a second.

The probe is ridge regression on the targets as probabilities (one-hot for classes). One singular value decomposition
for each fold gives the answers for all strengths of the regularisation.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tl_app.tasks.task import Task

# Strengths of the regularisation, as shares of the mean squared singular value, from the strongest.
STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
NEIGHBOURS = 10


@dataclasses.dataclass(frozen=True)
class Rows:
  """Features of examples, with one row for each, or one for each word.

  Attributes:
    features: function, int [k] -> float [rows, width], of the examples at these positions.
    targets: function, int [k] -> [rows, ..], what the rows should predict.
    by_example: function (outputs of the rows, int [k]) -> outputs of the examples, as `Metrics.score` takes them.
    example_targets: [n, ..], targets of all examples.
  """

  features: Callable[[np.ndarray], np.ndarray]
  targets: Callable[[np.ndarray], np.ndarray]
  by_example: Callable[[np.ndarray, np.ndarray], np.ndarray]
  example_targets: np.ndarray

  @classmethod
  def of(cls, features: np.ndarray, targets: np.ndarray) -> "Rows":
    """Returns the rows of examples that have one each."""
    return cls(lambda at: features[at], lambda at: targets[at], lambda outputs, at: outputs, targets)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """The score of a probe, or of nearest neighbours, by cross-validation.

  Attributes:
    score: the primary metric of the answers for the held-out examples, each given by a model that has not seen it.
    deviation: standard deviation of the metric over the folds.
    outputs: the answers, [held-out examples, ..] in the order of the examples.
    strength: of the regularisation; 0 for neighbours.
  """

  score: float
  deviation: float
  outputs: np.ndarray
  strength: float = 0.0


def positions(parts: Sequence[np.ndarray]) -> np.ndarray:
  """Returns the positions of all held-out examples, in the order of `Estimate.outputs`, see `folds.held_out`."""
  return np.sort(np.concatenate(parts))


def cross_validated(rows: Rows, task: Task, parts: Sequence[np.ndarray]) -> Estimate:
  """Returns the score of a probe; the strength is the one with the highest score, of equal ones the strongest.

  Args:
    rows: the `Rows`.
    task: the fitted `Task`.
    parts: positions of the held-out examples of each fold, see `folds.held_out`.
  """
  answers: list[list[np.ndarray]] = [[] for _ in STRENGTHS]
  for part in parts:
    rest = np.setdiff1d(np.arange(len(rows.example_targets)), part)
    targets = np.asarray(task.codec.as_probabilities(rows.targets(rest)), np.float64)
    found = ridge_path(rows.features(rest), targets, rows.features(part))
    for answer, outputs in zip(answers, found):
      answer.append(rows.by_example(outputs.astype(np.float32), part))
  estimates = [_estimate(answer, parts, rows.example_targets, task, s) for answer, s in zip(answers, STRENGTHS)]
  return max(estimates, key=lambda estimate: estimate.score)


def ridge_path(x: np.ndarray, y: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
  """Returns the outputs of ridge regression for other rows, float64 [m, outputs], one array for each of `STRENGTHS`.

  Args:
    x: float [n, width].
    y: float [n, outputs].
    others: float [m, width].
  """
  x, others = np.asarray(x, np.float64), np.asarray(others, np.float64)
  mean, middle = x.mean(axis=0), y.mean(axis=0)
  # The smaller of the two products has the same singular values.
  u, s, v = _decomposed(x - mean)
  projected, right = (others - mean) @ v, u.T @ (y - middle)
  unit = float(np.square(s).sum()) / max(len(s), 1)
  return [(projected * (s / (np.square(s) + strength * unit))) @ right + middle for strength in STRENGTHS]


def neighbours(rows: Rows, task: Task, parts: Sequence[np.ndarray]) -> Estimate:
  """Returns the score of the `NEIGHBOURS` nearest examples by cosine, with equal weights, by cross-validation.

  Args:
    rows, task, parts: as of `cross_validated`.
  """
  answer = []
  for part in parts:
    rest = np.setdiff1d(np.arange(len(rows.example_targets)), part)
    x, others = (_unit(rows.features(at)) for at in (rest, part))
    shares = np.asarray(task.codec.as_probabilities(rows.targets(rest)), np.float64)
    count = min(NEIGHBOURS, len(x))
    outputs = np.empty((len(others), shares.shape[1]))
    for begin in range(0, len(others), 512):
      near = np.argpartition(-(others[begin : begin + 512] @ x.T), count - 1, axis=1)[:, :count]
      outputs[begin : begin + 512] = shares[near].mean(axis=1)
    answer.append(rows.by_example(outputs.astype(np.float32), part))
  return _estimate(answer, parts, rows.example_targets, task, 0.0)


def _estimate(answer, parts, targets, task, strength):
  scores = [task.metrics.score(outputs, targets[part]) for outputs, part in zip(answer, parts)]
  longest = max((outputs.shape[1:] for outputs in answer), key=lambda shape: np.prod(shape))
  held = positions(parts)
  whole = np.zeros((len(held), *longest), np.float32)
  for outputs, part in zip(answer, parts):
    whole[(np.searchsorted(held, part), *(slice(size) for size in outputs.shape[1:]))] = outputs
  return Estimate(float(task.metrics.score(whole, targets[held])), float(np.std(scores)), whole, strength)


def _decomposed(x):
  """Returns (u, s, v) of x = u s v', without the directions in which x does not vary."""
  if x.shape[0] >= x.shape[1]:
    values, v = np.linalg.eigh(x.T @ x)
  else:
    values, u = np.linalg.eigh(x @ x.T)
  keep = values > max(values.max(), 0.0) * 1e-10
  s = np.sqrt(values[keep])
  if x.shape[0] >= x.shape[1]:
    v = v[:, keep]
    return x @ v / s, s, v
  u = u[:, keep]
  return u, s, x.T @ u / s


def _unit(x):
  x = np.asarray(x, np.float32)
  return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
