"""Integrated gradients (Sundararajan et al. 2017): the integral of the gradient from a baseline to an input."""

import dataclasses
import typing
from collections.abc import Sequence

import numpy as np

# Points of the Gauss-Legendre rule. More are taken where the error is above `TOLERANCE`.
POINTS = (16, 32, 64, 128)
TOLERANCE = 0.01
LEAST_CHANGE = 0.1
_TINY = 1e-9


class Path(typing.Protocol):
  """The way from a baseline to an input.

  Attributes:
    chunk: number of points that fit in memory together.
  """

  chunk: int

  def evaluate(self, shares: np.ndarray) -> tuple[np.ndarray, Sequence[np.ndarray]]:
    """Returns scores and their gradients at points of the way.

    Args:
      shares: float [k], 0 at the baseline and 1 at the input.

    Returns:
      (scores, float [k]; for each part of the input the gradients, float [k, ..]).
    """

  def differences(self) -> Sequence[np.ndarray]:
    """Returns the input less the baseline, float [..], for each part of the input."""


@dataclasses.dataclass(frozen=True)
class Integrated:
  """What integrated gradients gave.

  Attributes:
    attributions: float64 [..] for each part of the input; all of them sum to `change` but for an error.
    score: of the input.
    baseline_score: of the baseline.
    points: number of points of the integral.
  """

  attributions: list[np.ndarray]
  score: float
  baseline_score: float
  points: int

  @property
  def change(self) -> float:
    """The score of the input less that of the baseline."""
    return self.score - self.baseline_score

  @property
  def completeness_error(self) -> float:
    """The distance of the sum of the attributions from `change`, as a share of `change`.

    Where attributions cancel each other it is a share of `LEAST_CHANGE` of their absolute sum.
    """
    positions = [part.sum(axis=-1) for part in self.attributions]
    total, absolute = (sum(float(of(part).sum()) for part in positions) for of in (np.asarray, np.abs))
    return abs(total - self.change) / max(abs(self.change), LEAST_CHANGE * absolute, _TINY)


def integrate(path: Path) -> Integrated:
  """Returns the integrated gradients of a way, with as many points of `POINTS` as `TOLERANCE` needs."""
  (baseline_score, score), _ = path.evaluate(np.array([0.0, 1.0]))
  differences, found = path.differences(), None
  for points in POINTS:
    means = _mean_gradients(path, points)
    attributions = [np.float64(part) * mean for part, mean in zip(differences, means)]
    found = Integrated(attributions, float(score), float(baseline_score), points)
    if found.completeness_error <= TOLERANCE:
      break
  assert found is not None
  return found


def _mean_gradients(path, points):
  nodes, weights = np.polynomial.legendre.leggauss(points)
  shares, weights = (nodes + 1) / 2, weights / 2
  total: list = []
  for start in range(0, points, path.chunk):
    part = slice(start, start + path.chunk)
    _, gradients = path.evaluate(shares[part])
    sums = [np.tensordot(weights[part], np.float64(gradient), axes=1) for gradient in gradients]
    total = [before + new for before, new in zip(total, sums)] if total else sums
  return total
