"""The primary metric on each slice, and whether the difference to the rest is chance."""

import typing
from collections.abc import Sequence

import numpy as np
import scipy.stats

from tl_app.report.slices.columns import SliceColumn
from tl_app.tasks import statistics
from tl_app.tasks.metrics import Metrics

# Slices of fewer examples, and those that leave fewer, are shown and not compared: an accuracy that is measured on 30
# examples is known to 0.18 up or down at worst.
LEAST = 30
# Largest corrected p-value of a difference that is called significant.
SIGNIFICANT = 0.05
# Random slices that an observed one is compared with; fewer for large splits, see `_rounds`.
ROUNDS = 500
_CHUNK = 50
_WORK = 2e9


def compare(columns: Sequence[SliceColumn], metrics: Metrics, sums: np.ndarray, seed: int = 0) -> list[dict]:
  """Returns a row for each slice, those that are compared first, the worst difference at the top.

  The p-value tells how often a random slice of the same size differs from the rest as much: Fisher's exact test for
  the share of right answers, else random slices (a normal distribution with their mean and deviation, where fewer than
  ten of them differ as much). It is corrected by Holm's method, which holds for slices that overlap: the probability of
  even one false alarm is at most 5 %.

  Args:
    columns: the divisions.
    metrics: the `Metrics` of the task.
    sums: float [n, k], of `Metrics.sufficient_statistics`.
    seed: seed of the random slices and of the bootstrap.

  Returns:
    [{"column", "value", "num_examples", primary metric, "ranked", ..}]; a slice that is compared also has "KEY_ci95",
    "rest", "difference", "difference_ci95", "p_value", "corrected_p_value", "worse", "better". KEY is that of the
    primary metric.
  """
  slices = [(column.name, name, column.values == name) for column in columns for name in column.names()]
  ranked = [mask for *_, mask in slices if LEAST <= mask.sum() <= len(sums) - LEAST]
  found = iter(_compared(ranked, metrics, sums, seed))
  rows = []
  for column, value, mask in slices:
    is_ranked = bool(LEAST <= mask.sum() <= len(sums) - LEAST)
    score = float(metrics.score_from_statistics(sums[mask].sum(axis=0)))
    row = {"column": column, "value": value, "num_examples": int(mask.sum()), metrics.primary_metric: score}
    rows.append(row | {"ranked": is_ranked} | (next(found) if is_ranked else {}))
  return sorted(rows, key=lambda row: (not row["ranked"], row.get("difference", 0)))


def _compared(masks, metrics, sums, seed):
  """Yields what `compare` says of each of the slices `masks`, bool [n] each."""
  if not masks:
    return
  exact = metrics.counts_right_answers
  p_values = [_fisher(sums, mask) for mask in masks] if exact else _by_random_slices(masks, metrics, sums, seed)
  corrected = holm(p_values, _tests(masks))
  intervals = [_newcombe(sums, mask, seed) for mask in masks] if exact else _bootstrap(masks, metrics, sums, seed)
  for mask, p, corrected_p, (interval, of_difference) in zip(masks, p_values, corrected, intervals):
    score, rest = (float(metrics.score_from_statistics(sums[part].sum(axis=0))) for part in (mask, ~mask))
    significant = bool(corrected_p <= SIGNIFICANT)
    yield {
      f"{metrics.primary_metric}_ci95": interval,
      "rest": rest,
      "difference": score - rest,
      "difference_ci95": of_difference,
      "p_value": float(p),
      "corrected_p_value": float(corrected_p),
      "worse": significant and score < rest,
      "better": significant and score > rest,
    }


def holm(p_values: Sequence[float] | np.ndarray, tests: Sequence | None = None) -> np.ndarray:
  """Returns the p-values corrected by Holm's method (Holm 1979), float [n].

  Args:
    p_values: float [n], 0 to 1.
    tests: [n], the same for p-values of one test, which counts once; None if each is a test of its own.
  """
  of_test = np.arange(len(p_values)) if tests is None else np.asarray(tests)
  _, first, inverse = np.unique(of_test, return_index=True, return_inverse=True)
  distinct = np.asarray(p_values, np.float64)[first]
  order = np.argsort(distinct, kind="stable")
  corrected = np.empty(len(distinct))
  corrected[order] = np.minimum(np.maximum.accumulate(distinct[order] * (len(distinct) - np.arange(len(distinct)))), 1)
  return corrected[inverse]


def _tests(masks):
  """Returns a number for each slice, the same for equal slices and for one and all the rest, whose test is the same."""
  keys = [min(mask.tobytes(), (~mask).tobytes()) for mask in masks]
  number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
  return [number[key] for key in keys]


def _fisher(sums, mask):
  right, of_rest = (int(sums[part][:, 0].sum()) for part in (mask, ~mask))
  table = [[right, int(mask.sum()) - right], [of_rest, int((~mask).sum()) - of_rest]]
  return float(typing.cast(typing.Any, scipy.stats.fisher_exact(table)).pvalue)


def _newcombe(sums, mask, seed):
  """Returns the 95 % intervals of an accuracy, and of its difference to the rest (Newcombe 1998, method 10)."""
  (right, n), (of_rest, rest) = ((int(sums[part][:, 0].sum()), int(part.sum())) for part in (mask, ~mask))
  (low, high), (rest_low, rest_high) = statistics.wilson(right / n, n), statistics.wilson(of_rest / rest, rest)
  difference = right / n - of_rest / rest
  down = np.hypot(right / n - low, rest_high - of_rest / rest)
  up = np.hypot(high - right / n, of_rest / rest - rest_low)
  return statistics.accuracy_interval(right, n, seed), [float(difference - down), float(difference + up)]


def _rounds(sums, most):
  """Returns how many rounds over all examples are worth their time, at least 200."""
  return int(np.clip(_WORK / sums.size, 200, most))


def _by_random_slices(masks, metrics, sums, seed):
  """Returns the p-value of each slice from random slices of the same size."""
  rng, sizes = np.random.default_rng(seed), np.array([mask.sum() for mask in masks])
  total = sums.sum(axis=0)
  starts, place = np.unique(np.concatenate([[0], sizes]), return_inverse=True)
  differences = []
  for _ in range(_rounds(sums, ROUNDS)):
    parts = np.cumsum(np.add.reduceat(sums[rng.permutation(len(sums))], starts, axis=0), axis=0)
    # What is before the start of a part are as many examples as the slice has.
    inside = np.concatenate([np.zeros((1, sums.shape[1])), parts])[place[1:]]
    differences.append(metrics.score_from_statistics(inside) - metrics.score_from_statistics(total - inside))
  p_values = []
  for mask, random in zip(masks, np.array(differences).T):
    inside = sums[mask].sum(axis=0)
    observed = float(metrics.score_from_statistics(inside) - metrics.score_from_statistics(total - inside))
    as_large = int(np.sum(np.abs(random - random.mean()) >= abs(observed - random.mean()) - 1e-12))
    deviation = random.std()
    if as_large >= statistics.FEW or deviation < 1e-12:
      p_values.append((as_large + 1) / (len(random) + 1))
    else:
      p_values.append(float(2 * scipy.stats.norm.sf(abs(observed - random.mean()) / deviation)))
  return p_values


def _bootstrap(masks, metrics, sums, seed):
  """Returns the 95 % intervals of each slice's metric, and of its difference to the rest, by the Poisson bootstrap."""
  rng, rounds = np.random.default_rng(seed), _rounds(sums, statistics.RESAMPLES)
  scores = [([], []) for _ in masks]
  for start in range(0, rounds, _CHUNK):
    weights = rng.poisson(1.0, (min(_CHUNK, rounds - start), len(sums))).astype(np.float64)
    total = weights @ sums
    for mask, (own, differences) in zip(masks, scores):
      inside = weights[:, mask] @ sums[mask]
      own.append(metrics.score_from_statistics(inside))
      differences.append(own[-1] - metrics.score_from_statistics(total - inside))
  return [tuple(statistics.percentiles(np.concatenate(values)) for values in of_slice) for of_slice in scores]
