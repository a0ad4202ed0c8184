"""Selective answers: which answers are accepted, and how often the accepted ones are wrong."""

import math

import numpy as np

from tl_app.tasks import statistics

# A threshold that no score reaches, since scores are in [0, 1].
NEVER = 2.0
# More than float32 rounds a score, as a share of it.
ROUNDING = 1e-6


def threshold_for_error(scores: np.ndarray, right: np.ndarray, max_error: float) -> float:
  """Returns the lowest threshold above which new answers are wrong at most as often as `max_error`, on average.

  Of the examples with scores of at least the threshold, `wrong + 1` is at most `max_error` of them. The one more, as in
  conformal selection (Jin & Candes 2023), accounts for the choice of the threshold on these examples: a limit of 0.02
  needs at least 50 accepted examples.

  Args:
    scores: float [n] in [0, 1], higher for surer answers.
    right: bool [n], whether each answer is right.
    max_error: in (0, 1).

  Returns:
    A number in [0, 1], or `NEVER` if the examples cannot show so small an error.
  """
  scores = np.asarray(scores, np.float64)
  order = np.argsort(-scores, kind="stable")
  ranked, wrong = scores[order], np.cumsum(~np.asarray(right, bool)[order])
  fits = wrong + 1 <= max_error * np.arange(1, len(order) + 1)
  # Equal scores are on the same side.
  fits[:-1] &= ranked[:-1] > ranked[1:]
  if not fits.any():
    return NEVER
  last = int(np.flatnonzero(fits)[-1])
  return float((ranked[last] + ranked[last + 1]) / 2) if last + 1 < len(ranked) else 0.0


def threshold_for_share(scores: np.ndarray, share: float) -> float:
  """Returns the highest threshold that at least the share `share` of new scores reaches, on average (conformal).

  It is below a score by `ROUNDING` of it, so that the rounding of an export does not decide about that example.

  Args:
    scores: float [n] in [0, 1].
    share: in (0, 1].
  """
  # The sum keeps rounding, as in 20 * 0.05, from giving one less.
  rank = math.floor((len(scores) + 1) * (1 - share) + 1e-9)
  return float(np.sort(scores)[rank - 1]) * (1 - ROUNDING) if rank else 0.0


def measure(accepted: np.ndarray, right: np.ndarray | None = None, seed: int = 0) -> dict:
  """Returns how many answers are accepted and how often these are wrong, ready for JSON.

  Args:
    accepted: bool [n].
    right: bool [n], or None if answers are not right or wrong.
    seed: of the intervals.

  Returns:
    A dict: "accepted" with "accepted_ci95", and with `right` "error" (share of wrong answers among the accepted ones)
    with "error_ci95", or None if none is accepted, and "error_of_all".
  """
  found: dict = {
    "accepted": float(np.mean(accepted)),
    "accepted_ci95": statistics.accuracy_interval(int(np.sum(accepted)), len(accepted), seed),
  }
  if right is None:
    return found
  count, wrong = int(np.sum(accepted)), int(np.sum(accepted & ~right))
  return found | {
    "error": wrong / count if count else None,
    "error_ci95": statistics.accuracy_interval(wrong, count, seed) if count else None,
    "error_of_all": float(np.mean(~right)),
  }
