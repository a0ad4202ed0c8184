"""Label cells: what a reader gives as text, and what is in it."""

import collections
import json
import math

from tl_app.errors import UserError

SEPARATORS = (",", ";", "|")
# pandas writes 0.0 and 1.0 where a column has had a missing value.
FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
# More different amounts than this are no classes: ratings in half stars have 10, in tenths of a point 41.
MOST_CLASSES = 20


def listed(cell):
  """Returns the list of str of a cell that is a JSON list (a list column, or several columns), else None."""
  if not cell.startswith("["):
    return None
  try:
    values = json.loads(cell)
  except ValueError:
    return None
  return [value if isinstance(value, str) else json.dumps(value) for value in values]


def number(cell):
  """Returns the finite float of a cell, or None."""
  try:
    value = float(cell)
  except ValueError:
    return None
  return value if math.isfinite(value) else None


def amounts(cells):
  """Whether the cells, a set of str, are amounts and no classes: numbers, not all whole, and many different ones."""
  values = [number(cell) for cell in cells]
  return len(cells) > MOST_CLASSES and None not in values and not all(value.is_integer() for value in values)


def separator(cells):
  """Returns what joins several classes in the cells, a set of str, or None where each is one class.

  Joined are they if the parts recur: of the cells that the separator divides every part is part of another cell too,
  and there are fewer parts than cells. A name like "Washington, DC" has parts of its own.
  """
  for mark in SEPARATORS:
    parts = collections.Counter(part for cell in cells for part in set(split(cell, mark)))
    divided = [cell for cell in cells if len(split(cell, mark)) > 1]
    recurring = [cell for cell in divided if all(parts[part] > 1 for part in split(cell, mark))]
    if divided and len(parts) < len(cells) and len(recurring) > 0.9 * len(divided):
      return mark
  return None


def commonest_separator(cells):
  """Returns the separator that divides the most of the cells, a set of str."""
  return max(SEPARATORS, key=lambda mark: sum(mark in cell for cell in cells))


def split(cell, mark):
  """Returns the names in a cell, without white space around them; an empty part is none."""
  return [part.strip() for part in cell.split(mark) if part.strip()]


def unknown(label, names):
  """Returns the `UserError` about a label that the model does not know."""
  return UserError(f"the label {label!r} is unknown; the model knows: {', '.join(names[:20])}")
