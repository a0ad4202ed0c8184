"""What metrics.json holds about slices."""

import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tl_app.data.examples import Examples
from tl_app.data.splitting.image_index import DecodedImageIndex
from tl_app.report.slices import columns as columns_lib
from tl_app.report.slices import fairness, measure, tree
from tl_app.report.slices.columns import SliceColumn
from tl_app.tasks.task import Task


def measured(
  task: Task, examples: Examples, outputs: np.ndarray, index: DecodedImageIndex, path: pathlib.Path | None = None
) -> dict:
  """Returns {"slices": of `report`} of a split, {} if nothing divides its examples.

  Args:
    task: the fitted `Task`.
    examples: the `Examples` of the split.
    outputs: of `Answers.outputs` for these examples.
    index: `DecodedImageIndex`, which remembers sizes and brightness of images.
    path: where to write what divides the examples, see `columns.write`; None for nowhere.
  """
  cells = columns_lib.raw(examples, index)
  if path:
    columns_lib.write(path, examples.ids, cells)
  rows = task.answers.rows(examples.ids, list(examples.labels), outputs)
  divisions = columns_lib.divisions(cells, columns_lib.given(examples))
  found = report(task, divisions, [dict(zip(task.answers.columns, row)) for row in rows])
  return {"slices": found} if found else {}


def report(task: Task, divisions: Sequence[SliceColumn], rows: Sequence[Mapping[str, str]]) -> dict | None:
  """Returns the "slices" of metrics.json; None without a division.

  Args:
    task: the fitted `Task`.
    divisions: of the examples.
    rows: of predictions_test.csv, one for each example in the same order.

  Returns:
    {"rows": of `measure.compare`, "least_examples", "significant", "worst_groups": {column: {"value", "num_examples",
    primary metric, its interval}}, "fairness": {column: of `fairness.measures`}, "found": of `tree.found`}. Worst
    groups and fairness are those of the columns that the user has named, over the slices that are compared.
  """
  if not divisions:
    return None
  compared = measure.compare(divisions, task.metrics, task.metrics.sufficient_statistics(rows))
  given = [column for column in divisions if column.given]
  mistakes = np.array([task.answers.mistake(row) for row in rows])
  return {
    "least_examples": measure.LEAST,
    "significant": measure.SIGNIFICANT,
    "rows": compared,
    "worst_groups": _worst_groups(given, compared, task.metrics.primary_metric),
    "fairness": _fairness(given, task, rows),
    "found": tree.found(divisions, mistakes),
  }


def _worst_groups(columns, compared, primary):
  found = {}
  for column in columns:
    ranked = [row for row in compared if row["column"] == column.name and row["ranked"]]
    if ranked:
      worst = min(ranked, key=lambda row: row[primary])
      found[column.name] = {key: worst[key] for key in ("value", "num_examples", primary, f"{primary}_ci95")}
  return found


def _fairness(columns, task, rows):
  """Returns {column: measures} over the groups that are large enough."""
  decisions = task.metrics.decisions(rows) if columns else None
  if decisions is None:
    return {}
  answers, truth = decisions
  found = {}
  for column in columns:
    large = [name for name in column.names() if (column.values == name).sum() >= measure.LEAST]
    used = np.isin(column.values, large)
    if len(large) > 1:
      found[column.name] = fairness.measures(answers[used], truth[used], list(column.values[used]), task.names)
  return found


def worst_group(columns: Sequence[SliceColumn], score: Callable[[np.ndarray], float]) -> tuple[str, float] | None:
  """Returns (slice, score) of the slice with the lowest score; None if none has `measure.LEAST` examples.

  Args:
    columns: the divisions.
    score: function, bool [n] -> the primary metric on the examples of a slice.
  """
  masks = {f"{column.name} = {name}": column.values == name for column in columns for name in column.names()}
  scores = {name: score(mask) for name, mask in masks.items() if mask.sum() >= measure.LEAST}
  return min(scores.items(), key=lambda item: item[1]) if scores else None
