"""Label cells: the text that a reader gives for a label, and what is in it."""

import ast
import collections
import contextlib
import json
import math
import re
from collections.abc import Sequence

from tl_app.errors import UserError, suggestion

SEPARATORS = (",", ";", "|", "\n", "\t")
# What may join classes, but is a part of many names too.
UNSURE_SEPARATORS = ("/", "+", "&", " ")
# pandas writes 0.0 and 1.0 where a column has had a missing value.
BITS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
FLAGS = BITS | {"no": False, "yes": True, "n": False, "y": True, "f": False, "t": True}
# More different numbers than this are amounts and no classes: ratings in half stars have 10, in tenths of a point 41.
MOST_CLASSES = 20

# A list as Python, NumPy or PyTorch writes it: ['a', 'b'], ['a' 'b'], {'a', 'b'}, array(['a'], dtype=object), [1. 0.],
# tensor([1, 0], device='cuda:0'), tf.Tensor([1 0], shape=(2,), dtype=int32).
_CALL = re.compile(
  r"(?:(?:np|numpy|torch|tf|pd)\.)?(?:array|tensor|Tensor|list|tuple|set|frozenset|Index|Series)\((.*?)\s*"
  r"(?:,\s*(?:(?:dtype|device|name)=[^(),]*|shape=\([^()]*\)))*\)",
  re.DOTALL,
)
_MEMBER = re.compile(
  r"""\s*(?:(?:np|numpy)\.\w+\()?(?:(?P<text>b?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))|(?P<bare>[-+.\w]+))\)?\s*""",
  re.DOTALL,
)
_BRACKETS = {"[": "]", "{": "}", "(": ")"}
# A number as people write amounts: with a currency or a percent sign, and with separators.
_CURRENCY = r"USD|EUR|GBP|CHF|INR|JPY|CNY"
_UNIT = re.compile(
  rf"^[\s$€£¥₹]+|[\s$€£¥₹%]+$|^(?:{_CURRENCY})\s*|\s*(?:{_CURRENCY})$|"
  r"(?<=\d)\s*(?:[kKM]|bn|[kmµ]?g|[kcmµ]?m|m?s|min|h|[km]?W|kWh|[km]?V|[ckm]?Hz|m?l|°?[CF]|km/h|m/s|ppm|px|[kMG]B)$"
)
_GROUPED = re.compile(
  r"[-+]?(?:\d{1,3}([,.'’ \u00a0\u2009\u202f])\d{3}(?:\1\d{3})*|\d{1,2}(?:,\d\d)+,\d{3})(?:[.,]\d+)?"
)


def listed(cell: str) -> list[str] | None:
  """Returns the list of str of a cell that is a list, else None.

  A cell of a list column, and of several columns, is JSON. A table that pandas wrote holds the text that Python or
  NumPy give a list: "['a', 'b']", "['a' 'b']", "[1. 0.]", "{'a', 'b'}", "array(['a'], dtype=object)", "tensor([1, 0])".
  A missing value, null, None or NaN, is "".
  """
  if cell.startswith("["):
    try:
      return [_json_member(value) for value in json.loads(cell)]
    except (ValueError, RecursionError):
      pass
  return _python_list(cell.strip())


def _json_member(value):
  if value is None or value != value:
    return ""
  return value if isinstance(value, str) else json.dumps(value)


def _python_list(text):
  call = _CALL.fullmatch(text)
  text = call[1] if call else text
  if call and not text:
    return []
  if len(text) < 2 or _BRACKETS.get(text[0]) != text[-1]:
    return None
  inside, values, quoted, position = text[1:-1].strip(), [], False, 0
  while position < len(inside):
    member = _MEMBER.match(inside, position)
    value = _python_member(member)
    if value is None:
      return None
    values.append(value)
    quoted |= member["text"] is not None
    position = member.end()
    comma = inside[position : position + 1] == ","
    # Two members without anything between them are none: "it's".
    if position < len(inside) and not comma and not inside[position - 1].isspace():
      return None
    position += comma
  # (1) and (late) are names, ('late',) is a list.
  return values if text[0] == "[" or (quoted and (text[0] == "{" or "," in inside)) else None


def _python_member(member):
  """Returns the str of a match of `_MEMBER`, None where it is no member."""
  if not member:
    return None
  if member["text"] is not None:
    try:
      value = ast.literal_eval(member["text"])
      return value.decode() if isinstance(value, bytes) else value
    except (ValueError, SyntaxError):
      return None
  if member["bare"] in ("True", "False"):
    return member["bare"].lower()
  if member["bare"] in ("None", "nan"):
    return ""
  value = number(member["bare"])
  return None if value is None else str(int(value)) if value.is_integer() else member["bare"]


def is_dictionary(cell: str) -> bool:
  """Whether a cell is the text of a Python dictionary or of a JSON object: "{'pay': 1, 'post': 0}"."""
  if not cell.startswith("{"):
    return False
  for read in (json.loads, ast.literal_eval):
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
      return isinstance(read(cell), dict)
  return False


def shown(cell: str) -> str:
  """Returns a cell as messages show it: a list of numbers without quotes."""
  members = listed(cell)
  return f"[{', '.join(members)}]" if members and all(number(member) is not None for member in members) else cell


def number(cell: str) -> float | None:
  """Returns the finite float of a cell, or None. 1_000 is a name, though a number in Python."""
  if "_" in cell:
    return None
  try:
    value = float(cell)
  except ValueError:
    return None
  return value if math.isfinite(value) else None


def is_written_number(cell: str) -> bool:
  """Whether a cell is an amount as people write it: "1,013.50", "1.013,50", "0,5", "$5", "7 %", "(5)", "5-", "3 kg"."""
  text = cell.strip().replace("\u2212", "-")
  # Bookkeepers write an amount below 0 in brackets, or with the minus behind it.
  text = re.sub(r"\((.*)\)|([^-]*\d)-", r"-\1\2", text) if re.fullmatch(r"\(.*\)|[^-]*\d-", text) else text
  text = _UNIT.sub("", _UNIT.sub("", text))
  return bool(_GROUPED.fullmatch(text)) or number(text.replace(",", ".")) is not None


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
  return next((mark for mark in SEPARATORS if _joins(mark, cells)), None)


def unsure_separator(cells: set[str]) -> str | None:
  """Returns the one of `UNSURE_SEPARATORS` that seems to join classes: each of the names is a cell by itself too."""
  for mark in UNSURE_SEPARATORS:
    joined = [split(cell, mark) for cell in cells if len(split(cell, mark)) > 1]
    if len(joined) > 1 and all(name in cells for names in joined for name in names):
      return mark
  return None


def _joins(mark, cells):
  names = collections.Counter(name for cell in cells for name in set(split(cell, mark)))
  joined = [cell for cell in cells if len(split(cell, mark)) > 1]
  recurring = [cell for cell in joined if all(names[name] > 1 for name in split(cell, mark))]
  return bool(joined) and len(names) < len(cells) and len(recurring) > 0.9 * len(joined)


def most_frequent_separator(cells: set[str]) -> str:
  """Returns the separator that is in the most of the different cells."""
  return max(SEPARATORS, key=lambda mark: sum(mark in cell for cell in cells))


def split(cell: str, mark: str) -> list[str]:
  """Returns the names in a cell, without white space around them and without empty ones."""
  return [name.strip() for name in cell.split(mark) if name.strip()]


def unknown(label: str, names: Sequence[str]) -> UserError:
  """Returns the `UserError` about a label that the model does not know."""
  return UserError(
    f"the label {label!r} is unknown; the model knows: {', '.join(names[:20])}{suggestion(label, names)}"
  )
