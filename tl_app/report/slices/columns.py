"""What divides examples into slices: the columns of --slice_columns, and what each example tells without them."""

import collections
import csv
import dataclasses
import math
import pathlib
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from tl_app import files
from tl_app.data import modalities
from tl_app.data.examples import Examples
from tl_app.data.splitting.image_index import DecodedImageIndex

# A column of more different numbers than this is divided at its quantiles into this many bins.
MAX_NUMBERS, BINS = 10, 4
# Of more different values the most frequent ones are slices, and the others are one together.
MAX_VALUES = 50
EMPTY, OTHERS = "(empty)", "(others)"


@dataclasses.dataclass(frozen=True)
class SliceColumn:
  """A division of examples into slices.

  Attributes:
    name: of the column.
    values: object array [n] of str, the slice of each example.
    given: whether the column is one of --slice_columns or --group_column; else the examples tell it.
    numbers: float64 [n] of a column of numbers, NaN where a cell is empty; else None.
  """

  name: str
  values: np.ndarray
  given: bool = True
  numbers: np.ndarray | None = None

  def names(self) -> list[str]:
    """Returns the names of the slices: of numbers in their order, else the most frequent one first."""
    counts = collections.Counter(self.values)
    if self.numbers is None:
      return [name for name, _ in counts.most_common()]
    order = {name: np.nanmin(self.numbers[self.values == name]) for name in counts if name != EMPTY}
    return sorted(order, key=lambda name: order[name]) + ([EMPTY] if EMPTY in counts else [])


def of_examples(examples: Examples, index: DecodedImageIndex) -> list[SliceColumn]:
  """Returns the divisions of examples.

  Args:
    examples: the `Examples`.
    index: `DecodedImageIndex`, which remembers sizes and brightness of images.
  """
  return divisions(raw(examples, index), given(examples))


def of_user(examples: Examples) -> list[SliceColumn]:
  """Returns the divisions of examples by the columns that the user has named."""
  group = {"group": examples.groups} if examples.groups is not None else {}
  cells = group | examples.metadata
  return divisions(cells, cells)


def given(examples: Examples) -> set[str]:
  """Returns the names of the columns that the user has named."""
  return {*examples.metadata, *(["group"] if examples.groups is not None else [])}


def divisions(cells: Mapping[str, Sequence | np.ndarray], named: Collection[str]) -> list[SliceColumn]:
  """Returns the divisions into two slices or more.

  Args:
    cells: of `raw`, or the columns that `write` has written.
    named: the names of the columns that the user has named.
  """
  columns = [divide(name, values, name in named) for name, values in cells.items()]
  return [column for column in columns if len(set(column.values)) > 1]


def raw(examples: Examples, index: DecodedImageIndex) -> dict[str, Sequence]:
  """Returns {name: cell of each example, text or number}: what --slice_columns names, and what the examples tell.

  Args:
    examples, index: as of `of_examples`.
  """
  found: dict[str, typing.Any] = dict(examples.metadata)
  if examples.groups is not None:
    found.setdefault("group", examples.groups)
  for column in examples.inputs.columns.values():
    modality = modalities.of(column.modality)
    for name, values in modality.slice_values(column.values, examples.hashes, index).items():
      # The texts of a pair count together.
      before = found.get(name) if name not in examples.metadata else None
      if before is not None:
        values = [one + two for one, two in zip(before, values)]
      if name not in examples.metadata:
        found[name] = values
  sources = _sources(examples)
  if sources:
    found.setdefault("source", sources)
  return found


def write(path: str | pathlib.Path, ids: Iterable[str], cells: Mapping[str, Sequence]) -> None:
  """Writes what divides examples as UTF-8 CSV: the id, and a column for each division; atomically.

  Args:
    path: the file.
    ids: of the examples.
    cells: of `raw`.
  """
  with files.atomic_path(path) as new, open(new, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", *cells])
    writer.writerows(zip(ids, *([_text(cell) for cell in values] for values in cells.values())))


def _sources(examples):
  """Returns the file or the folder of each example; None if these are one, too many, or the classes."""
  places = [_place(id, value) for id, value in zip(examples.ids, next(iter(examples.inputs.columns.values())).values)]
  labels = collections.defaultdict(set)
  for place, label in zip(places, examples.labels):
    labels[place].add(label)
  if not 1 < len(labels) <= MAX_VALUES or all(len(found) == 1 for found in labels.values()):
    return None
  return places


def _place(id, value):
  """Returns the folder of an image that is a file, else what is before the number in the id."""
  file, colon, number = id.rpartition(":")
  if colon and number.isdigit():
    is_path = isinstance(value, str) and len(value) < 4096 and pathlib.PurePath(value).suffix and "\n" not in value
    folder = pathlib.PurePath(value).parent.name if is_path and value.startswith("/") else ""
    return folder or file
  return str(pathlib.PurePath(id).parent)


def divide(name: str, cells: Sequence | np.ndarray, given: bool = True) -> SliceColumn:
  """Returns the slices of a column. Numbers with more than `MAX_NUMBERS` values become `BINS` bins of equal size.

  Args:
    name: of the column.
    cells: texts or numbers, one for each example; "" is an empty cell.
    given: of `SliceColumn`.
  """
  texts = [_text(cell) for cell in cells]
  numbers = _numbers(texts)
  if numbers is not None and len(np.unique(numbers[~np.isnan(numbers)])) > MAX_NUMBERS:
    return SliceColumn(name, _bins(numbers), given, numbers)
  counts = collections.Counter(text or EMPTY for text in texts)
  kept = {text for text, _ in counts.most_common(MAX_VALUES)} if len(counts) > MAX_VALUES + 1 else set(counts)
  values = [text if text in kept else OTHERS for text in (text or EMPTY for text in texts)]
  return SliceColumn(name, np.array(values, dtype=object), given)


def _text(cell):
  """Returns a cell as text; "" for NaN."""
  if not isinstance(cell, float):
    return str(cell).strip()
  if math.isnan(cell):
    return ""
  return str(int(cell)) if cell.is_integer() else f"{cell:g}"


def _numbers(texts):
  """Returns the texts as float64 [n], NaN where one is empty; None if one is no number."""
  try:
    numbers = [float(text) if text else math.nan for text in texts]
  except ValueError:
    return None
  finite = all(math.isfinite(number) for number, text in zip(numbers, texts) if text)
  return np.array(numbers) if finite and any(texts) else None


def _bins(numbers):
  """Returns the name of the bin of each number, object array [n]. A bin ends with the number that its name shows."""
  known = ~np.isnan(numbers)
  edges = np.unique(np.quantile(numbers[known], np.arange(1, BINS) / BINS, method="lower"))
  # The largest number is no edge: nothing would be above it.
  edges = edges[edges < numbers[known].max()]
  if not len(edges):
    # More than three quarters of the numbers are the largest one.
    edges = np.unique(numbers[known])[-2:-1]
  between = (f"{_text(low)} to {_text(high)}" for low, high in zip(edges, edges[1:]))
  names = [f"up to {_text(edges[0])}", *between, f"over {_text(edges[-1])}"]
  bins = np.full(len(numbers), EMPTY, dtype=object)
  bins[known] = np.array(names, dtype=object)[np.searchsorted(edges, numbers[known])]
  return bins
