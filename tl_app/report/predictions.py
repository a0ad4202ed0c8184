"""The predictions file, predictions_test.csv: written by a run, read by the report and by compare."""

import csv
import dataclasses
import heapq
import json
import pathlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tl_app import files
from tl_app.data.examples import Examples
from tl_app.errors import UserError
from tl_app.files import checksums
from tl_app.tasks.answers import Answers

# Columns of the inputs, see `Inputs.columns`.
INPUTS = ("text", "text_pair", "image")
# Columns of `Answers.more_cells` for one target, which a table of errors does not show.
MORE = ("prediction_set", "accept", "ood_score", "low", "high")
# Texts may be whole documents; the csv module stops at 128 KiB otherwise.
csv.field_size_limit(2**31 - 1)


@dataclasses.dataclass(frozen=True)
class Errors:
  """The worst predictions of a run.

  Attributes:
    wrong: number of wrong predictions.
    total: number of predictions.
    worst: rows of the predictions file, {column: cell}, the worst first.
  """

  wrong: int
  total: int
  worst: list[dict[str, str]]


def write_answers(
  path: str | pathlib.Path,
  answers: Answers,
  examples: Examples,
  outputs: np.ndarray,
  ood_scores: np.ndarray | None = None,
) -> None:
  """Writes the answers to examples, with their texts or the paths of their images in the last columns.

  Args:
    path: the file.
    answers: of the calibrated task.
    examples: the `Examples`.
    outputs, ood_scores: as of `Answers.margins`.
  """
  rows = answers.rows(examples.ids, examples.labels.tolist(), outputs)
  write(path, answers.columns, rows, answers.more_cells(outputs, ood_scores) | _shown(examples.inputs))


def write(
  path: str | pathlib.Path,
  columns: Sequence[str],
  rows: Iterable[Sequence],
  more: Mapping[str, Sequence[str]] = types.MappingProxyType({}),
) -> None:
  """Writes a header and rows as UTF-8 CSV, in the given order; atomically.

  Args:
    path: the file.
    columns: see `Answers.columns`.
    rows: see `Answers.rows`.
    more: {column: cells} of the columns after these.
  """
  if more:
    rows = ((*row, *values) for row, values in zip(rows, zip(*more.values(), strict=True), strict=True))
  # A file name that is not UTF-8 comes as lone surrogates, which only backslashreplace can write.
  with files.atomic_path(path) as new, open(new, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*columns, *more])
    writer.writerows(rows)


def written(text: str) -> str:
  """Returns a text as `write` writes it: a file name that is not UTF-8 is escaped."""
  return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _shown(inputs):
  """Returns {name: texts or paths} of inputs; images without files, for instance in memory, have no column."""
  values = {name: [v if isinstance(v, str) else "" for v in column.values] for name, column in inputs.columns.items()}
  return {name: column for name, column in values.items() if any(column)}


def columns(path: str | pathlib.Path) -> list[str]:
  """Returns the names of the columns of a predictions file."""
  with open(path, newline="", encoding="utf-8") as file:
    return next(csv.reader(file))


def read(path: str | pathlib.Path) -> list[dict[str, str]]:
  """Returns the rows of a predictions file, {column: cell}."""
  with open(checksums.verified(pathlib.Path(path)), newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))


def typed(row: Mapping[str, str], has_class_names: bool) -> dict[str, typing.Any]:
  """Returns a row of a predictions file with numbers as float, "accept" as bool, and "prediction_set" as a list.

  A label that looks like a number stays the text that it is, unless it is an amount.

  Args:
    row: {column: cell}.
    has_class_names: see `Task`.
  """
  types = {"ood_score": float, "accept": "true".__eq__, "prediction_set": json.loads}
  numbers = ("score", "next_score") if has_class_names else ("label", "prediction", "error", "low", "high")
  types |= dict.fromkeys(numbers, float)
  # With several targets a column begins with the name of one.
  return {name: types.get(name.rpartition(" ")[2], str)(cell) for name, cell in row.items()}


def checked(path: pathlib.Path, answers: Answers) -> Iterator[dict[str, str]]:
  """Yields the rows of a predictions file, {column: cell}, one at a time.

  Args:
    path: the file.
    answers: of the task; they need not be fitted.

  Raises:
    UserError: a row is damaged.
  """
  with open(checksums.verified(path), newline="", encoding="utf-8") as file:
    rows = csv.DictReader(file)
    try:
      for row in rows:
        answers.error(row)
        yield row
    except (KeyError, TypeError, ValueError, csv.Error):
      line = rows.line_num
      raise UserError(f"{path}: line {line} is not a row of predictions: run the evaluation again") from None


def worst(path: pathlib.Path, answers: Answers, most: int) -> Errors | None:
  """Returns the worst errors in a predictions file, or None if there is no file.

  Args:
    path, answers: as of `checked`.
    most: number of rows to keep.

  Raises:
    UserError: a row is damaged.
  """
  if not path.exists():
    return None
  wrong, total, kept = 0, 0, []
  for total, row in enumerate(checked(path, answers), start=1):
    error = answers.error(row)
    if error is None:
      continue
    wrong += 1
    (heapq.heappush if len(kept) < most else heapq.heappushpop)(kept, (error, -total, row))
  return Errors(wrong, total, [row for *_, row in sorted(kept, reverse=True, key=lambda entry: entry[:2])])
