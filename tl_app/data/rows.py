"""`Row` and `Raw`: what the reader of each form of --dataset gives, unchecked; and what these readers share."""

import dataclasses
import json
import math
import os
import pathlib
import typing

from tl_app import config as configs
from tl_app.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
SPLIT_NAMES = {
  "train": "train",
  "validation": "validation",
  "valid": "validation",
  "val": "validation",
  "dev": "validation",
  "test": "test",
}


class Row(typing.NamedTuple):
  """One example before it is checked: `input` and `label` may be None (absent); `reason`: why it could not be read.

  Of a pair of texts the input is the tuple of both, of which either may be None.
  """

  id: str
  input: str | bytes | tuple | None = None
  label: str | None = None
  split: str = ""
  reason: str = ""


@dataclasses.dataclass
class Raw:
  """What a source read: the modality, the `Row`s in order, and lines worth telling the user."""

  modality: str
  rows: list
  notes: list = dataclasses.field(default_factory=list)


def one_for_each_split(candidates, what):
  """Returns [(split, path)] in the order train, validation, test, of candidates (path, a key of `SPLIT_NAMES`).

  Raises:
    UserError: two candidates are for one split.
  """
  found = {}
  for path, name in candidates:
    split = SPLIT_NAMES[name.lower()]
    if split in found:
      raise UserError(f"{what}: {found[split].name} and {path.name} are both the {split} split: keep one")
    found[split] = path
  return [(split, found[split]) for split in ("train", "validation", "test") if split in found]


def visible(folder):
  """Returns (sub folders, files) of `folder` that are not hidden, as sorted paths.

  Raises:
    UserError: the folder cannot be listed.
  """
  try:
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
  except OSError as error:
    raise UserError(f"{folder} cannot be listed: {error.strerror}") from None
  return [path for path in paths if path.is_dir()], [path for path in paths if not path.is_dir()]


def relative_name(path, root):
  """Returns the path below `root` as an id: "/" between the parts, bytes that are not UTF-8 replaced."""
  return os.fsencode(pathlib.PurePath(path).relative_to(root).as_posix()).decode("utf-8", "replace")


def as_text(value):
  """Returns a cell as str, None where it is absent; whole numbers without a decimal point, truth values as in JSON.

  Raises:
    ValueError: a list, an object or bytes; the message is for the user.
  """
  if value is None or isinstance(value, str):
    return value
  if isinstance(value, bool):
    return "true" if value else "false"
  if isinstance(value, float):
    if math.isnan(value):
      return None
    return str(int(value)) if value.is_integer() else repr(value)
  if isinstance(value, (list, dict, bytes)):
    raise ValueError(f"a cell holds a {type(value).__name__}: one text, number or name is needed")
  return str(value)


def as_label(value):
  """Returns a label cell as str, like `as_text`; of a list the JSON text, its members as `as_text` gives them."""
  if isinstance(value, (list, tuple)):
    return json.dumps([as_text(member) for member in value], ensure_ascii=False)
  return as_text(value)


def columns(names, wanted, lead="its columns are"):
  """Returns the end of a message about a missing column: the first 20 names, and the one nearest to `wanted`."""
  separator = next((mark for mark in (";", "\t", ",", "|") if len(names) == 1 and mark in names[0]), None)
  if separator:
    shown = names[0] if len(names[0]) <= 80 else names[0][:77] + "..."
    return f"its only column is {shown!r}: separate the fields of a .csv by commas, those of a .tsv by tabs"
  shown = [name if len(name) <= 40 else name[:37] + "..." for name in names[:20]]
  return f"{lead}: {', '.join(shown)}{configs.suggestion(wanted, names)}"
