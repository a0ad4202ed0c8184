"""Metrics as people say them, for the plain sentences about a model."""

from collections.abc import Mapping, Sequence

import numpy as np

# Numbers that make a sentence about where errors are largest.
_FEWEST = 30


def of_hundred(share: float, count: int = 100) -> str:
  """Returns a share in [0, 1] as "96 of 100"; near 0 and 1, "997 of 1,000" and "more than 999 of 1,000".

  Args:
    share: the share.
    count: number of examples of which it is a share; fewer than 100 are named: "3 of 4".
  """
  if count < 100:
    return f"{round(count * share)} of {count}"
  if share in (0, 1) or 0 < round(100 * share) < 100:
    return f"{round(100 * share)} of 100"
  if 0 < round(1000 * share) < 1000:
    return f"{round(1000 * share)} of 1,000"
  return "more than 999 of 1,000" if share > 0.5 else "fewer than 1 of 1,000"


def of_class(row: Mapping) -> tuple[str, str]:
  """Returns (recall, precision) of one class as `of_hundred` of its examples, and of the answers that name it.

  Args:
    row: a value of "per_class", see `Metrics.compute_metrics`.
  """
  answered = round(row["recall"] * row["support"] / row["precision"]) if row["precision"] else 0
  return of_hundred(row["recall"], row["support"]), of_hundred(row["precision"], answered)


def percent(share: float) -> str:
  """Returns a share in [0, 1] as "93 %", rounded down: for "at least"."""
  return f"{int(100 * share + 1e-9)} %"


def totals(test: Mapping) -> tuple[float, float]:
  """Returns (recall, precision) over all classes together.

  Args:
    test: metrics with "per_class" and "micro_f1", see `Metrics.compute_metrics`.
  """
  rows = test["per_class"].values()
  hits, support = sum(row["recall"] * row["support"] for row in rows), sum(row["support"] for row in rows)
  answered = 2 * hits / test["micro_f1"] - support if test["micro_f1"] else 0
  return hits / max(support, 1), hits / max(answered, 1)


def of_errors(points: Sequence[tuple[float, float]]) -> list[str]:
  """Returns how large the errors of predicted numbers are, and for which labels they are largest.

  Args:
    points: (label, error) of each test example.
  """
  if len(points) < _FEWEST:
    return []
  labels, errors = np.array(sorted(points)).T
  parts = [
    (part[0], part[-1], error.mean())
    for part, error in zip(*(np.array_split(values, 3) for values in (labels, errors)))
  ]
  low, high, mean = max(parts, key=lambda part: part[2])
  return [
    f"One prediction in ten is off by more than {np.quantile(errors, 0.9):.3g}.",
    f"Worst for labels from {low:.4g} to {high:.4g}: off by {mean:.3g} on average.",
  ]
