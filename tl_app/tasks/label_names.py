"""`resolve`: label cells that hold numbers or 0/1 vectors, as the names that they stand for."""

import json
import re
from collections.abc import Sequence

import numpy as np

from tl_app.config.groups import DataConfig
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.tasks import cells, tags

# A 0/1 vector that is no list: "0 1 0", "0,1,0", "0; 1; 0".
# Bits without anything between them: "010".
_BITS = re.compile(r"[01]{3,}")
_PLAIN_VECTOR = re.compile(r"[01](?:\.0)?(?:(?:\s+|\s*[,;|]\s*)[01](?:\.0)?)+")
_NAMED = "--label_names"


def resolve(labels: Sequence[str] | np.ndarray, config: DataConfig, texts=None) -> tuple[list[str], list[str]]:
  """Returns (the label cells with names, str [n]; notes for the user).

  - 0/1 vectors of one length become the names of the places that are 1: one name where every vector has exactly one 1,
    else a list. The names are --label_names, or class_0, class_1, ..
  - Vectors as long as every text has words are numbers of tags; `label_problems` speaks of these.
  - With --label_names a number becomes its name, alone and in a list. A list of tags becomes tags with spaces between.
  - All other cells stay as they are.

  Args:
    labels: all label cells, str [n].
    config: the `DataConfig` of the run.
    texts: the texts, str [n]; None where the inputs are no single texts.

  Raises:
    UserError: --label_names does not fit the labels.
  """
  names = [name.strip() for name in config.label_names.split(",") if name.strip()]
  # The names of folders are names.
  if config.label_columns or config.task == "regression" or not len(labels) or config.dataset.startswith("images:"):
    return list(labels), []
  width = _vector_width(set(labels))
  if width and not _are_tags(names, width, config, texts):
    return _from_vectors(labels, names, width, exclusive=config.task != "multi_label")
  if names:
    named = {label: _from_numbers(label, names) for label in set(labels)}
    return [named[label] for label in labels], []
  return list(labels), []


def _are_tags(names, width, config, texts):
  """Whether lists of 0 and 1 are numbers of the tags of words."""
  if names or config.task != "auto":
    return config.task == "token_classification" or (names != [] and all(map(tags.is_tag, names)))
  return texts is not None and all(len(tags.spans(text)) == width for text in texts)


def _vector_width(distinct):
  """Returns the number of places of 0/1 vectors; 0 where the different cells are none, or differ in length."""
  widths = set()
  if all(map(_BITS.fullmatch, distinct)) and _are_numbers(distinct):
    return 0
  for label in distinct:
    members = _members(label)
    if members is None or not all(member.lower() in cells.BITS for member in members):
      return 0
    widths.add(len(members))
  return widths.pop() if len(widths) == 1 and min(widths) > 1 else 0


def _are_numbers(bits):
  """Whether cells like "010" are numbers: none begins with 0, or a place is 1 in none, as in 000 and 001."""
  return not any(label.startswith("0") for label in bits) or any("1" not in place for place in zip(*bits))


def _members(label):
  """Returns the members of a list, or of a vector that is written without brackets; else None."""
  members = cells.listed(label)
  if _BITS.fullmatch(label):
    return list(label)
  return re.split(r"[\s,;|]+", label) if members is None and _PLAIN_VECTOR.fullmatch(label) else members


def _from_vectors(labels, names, width, exclusive):
  if names and len(names) != width:
    raise UserError(
      f"{_NAMED} has {number_of(len(names), 'name')}, but the labels are 0/1 vectors of {width} places, e.g. "
      f"{cells.shown(labels[0])}: give one name for each place"
    )
  digits, by_default = len(str(width - 1)), not names
  names = names or [f"class_{place:0{digits}}" for place in range(width)]
  chosen = [[names[i] for i, bit in enumerate(_members(label)) if cells.BITS[bit.lower()]] for label in labels]
  absent = sorted(set(names) - {name for row in chosen for name in row})
  note = f"the labels are 0/1 vectors of {width} places, e.g. {cells.shown(labels[0])}"
  notes = [f"{note}: named {names[0]} to {names[-1]}; {_NAMED} gives other names"] if by_default else []
  if absent:
    notes.append(f"places that are 1 in no label, and no classes: {len(absent)} of {width}, e.g. that of {absent[0]}")
  if exclusive and all(len(row) == 1 for row in chosen):
    return [row[0] for row in chosen], notes
  return [json.dumps(row, ensure_ascii=False) for row in chosen], notes


def _from_numbers(label, names):
  members = cells.listed(label)
  named = [_name(member, names, label) for member in ([label] if members is None else members)]
  return named[0] if members is None else tags.as_cell(named) or json.dumps(named, ensure_ascii=False)


def _name(member, names, label):
  value = cells.number(member)
  if value is None or not value.is_integer():
    raise UserError(f"{_NAMED} names the numbers of labels, but a label is {label!r}: remove the flag")
  if not 0 <= value < len(names):
    raise UserError(
      f"{_NAMED} has {number_of(len(names), 'name')}, the last one for the number {len(names) - 1}, but a label is "
      f"{label!r}: add the missing names"
    )
  return names[int(value)]
