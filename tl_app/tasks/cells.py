"""Label cells: the text that a reader gives for a label, and what is in it."""

import collections
import json
import math
from collections.abc import Sequence

from tl_app.errors import UserError

SEPARATORS = (",", ";", "|")
# pandas writes 0.0 and 1.0 where a column has had a missing value.
FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
# More different numbers than this are amounts and no classes: ratings in half stars have 10, in tenths of a point 41.
MOST_CLASSES = 20


def listed(cell: str) -> list[str] | None:
  """Returns the list of str of a cell that is a JSON list (a list column, or several columns), else None."""
  if not cell.startswith("["):
    return None
  try:
    values = json.loads(cell)
  except ValueError:
    return None
  return [value if isinstance(value, str) else json.dumps(value) for value in values]


def number(cell: str) -> float | None:
  """Returns the finite float of a cell, or None."""
  try:
    value = float(cell)
  except ValueError:
    return None
  return value if math.isfinite(value) else None


def amounts(cells: set[str]) -> bool:
  """Whether different cells are amounts and no classes: numbers, not all whole, and many different ones."""
  values = [number(cell) for cell in cells]
  return len(cells) > MOST_CLASSES and None not in values and not all(value.is_integer() for value in values)


def separator(cells: set[str]) -> str | None:
  """Returns the separator between several classes in the cells, or None if each cell is one class.

  A separator joins classes if the names recur: every name in a cell with the separator is in another cell too, and
  there are fewer names than cells. A label like "Washington, DC" has names of its own.

  Args:
    cells: the different label cells.
  """
  for mark in SEPARATORS:
    names = collections.Counter(name for cell in cells for name in set(split(cell, mark)))
    joined = [cell for cell in cells if len(split(cell, mark)) > 1]
    recurring = [cell for cell in joined if all(names[name] > 1 for name in split(cell, mark))]
    if joined and len(names) < len(cells) and len(recurring) > 0.9 * len(joined):
      return mark
  return None


def most_frequent_separator(cells: set[str]) -> str:
  """Returns the separator that is in the most of the different cells."""
  return max(SEPARATORS, key=lambda mark: sum(mark in cell for cell in cells))


def split(cell: str, mark: str) -> list[str]:
  """Returns the names in a cell, without white space around them and without empty ones."""
  return [name.strip() for name in cell.split(mark) if name.strip()]


def unknown(label: str, names: Sequence[str]) -> UserError:
  """Returns the `UserError` about a label that the model does not know."""
  return UserError(f"the label {label!r} is unknown; the model knows: {', '.join(names[:20])}")
