"""What slices of the test split say, in words."""

from collections.abc import Mapping

from tl_app.report import formatting
from tl_app.tasks.metrics import Metrics

# Slices that a sentence names.
_SHOWN = 3


def worse(test: Mapping) -> list[dict]:
  """Returns the rows of the slices that are significantly worse than the rest, the worst first."""
  return [row for row in test.get("slices", {}).get("rows", []) if row.get("worse")]


def name(row: Mapping) -> str:
  """Returns the name of a slice: "gender = f"."""
  return f"{row['column']} = {row['value']}"


def summary(test: Mapping, metrics: Metrics) -> str:
  """Returns the slices that are significantly worse, or "" if none is.

  Args:
    test: the metrics of the test split.
    metrics: the `Metrics` of the task.
  """
  rows, found = worse(test), test.get("slices", {}).get("found", [])
  key = metrics.primary_metric
  told = [
    f"{name(row)} ({metrics.primary_title} {formatting.decimals(row[key])} of {row['num_examples']:,} examples, the "
    f"rest {formatting.decimals(row['rest'])})"
    for row in rows[:_SHOWN]
  ]
  if not rows:
    told = [
      f"{row['rule']} (mean error {formatting.decimals(row['mistakes'])}, on the rest "
      f"{formatting.decimals(row['rest'])})"
      for row in found[:_SHOWN]
    ]
  more = len(rows or found) - len(told)
  return f"significantly worse: {', '.join(told)}{f' and {more} more' if more else ''}" if told else ""
