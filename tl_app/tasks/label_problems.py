"""`find`: label cells that would be read as something else than what they are, told in one line before the task is
guessed."""

import collections
import re
from collections.abc import Sequence

import numpy as np

from tl_app.config.groups import DataConfig
from tl_app.errors.counts import number_of
from tl_app.tasks import cells, tags

# Mean number of examples per class below which labels are taken for an identifier: each of three splits needs one.
FEWEST_PER_CLASS = 3
# Up to this share of different labels that are no numbers are slips among amounts.
SLIPS = 0.1
_TAG_FORM = "one tag per word: O, or B- and I- with the type of the entity"


def find(config: DataConfig, labels: Sequence[str], texts: np.ndarray | None = None) -> str:
  """Returns the problem of label cells in one line that says what to do, or "".

  Args:
    config: the `DataConfig` of the run. A --task that is not auto is believed, except where it cannot read the cells.
    labels: all label cells, str [n].
    texts: the texts, str [n]; None where the inputs are no single texts.
  """
  if config.task not in ("auto", "token_classification"):
    return ""
  problem = _words_alone(labels, texts) or _lists(labels, texts, config)
  if problem or config.task != "auto":
    return problem
  if config.label_columns:
    return _columns(config, labels)
  return (
    _dictionaries(labels)
    or _unquoted_lists(labels)
    or _sequences(labels, texts)
    or _numbers(labels)
    or _identifier(config, labels)
  )


def _dictionaries(labels):
  """Cells with the text of a dictionary."""
  example = labels[0]
  if not cells.is_dictionary(example) or not all(map(cells.is_dictionary, set(labels))):
    return ""
  return (
    f"the labels are dictionaries, e.g. {example}: write the list of the names that apply, or one column of 0 and 1 "
    "per name, with --label_columns"
  )


def _unquoted_lists(labels):
  """Cells that are lists of names without quotes: [pay, post] or {pay,post}."""
  distinct = set(labels)
  if not all(re.fullmatch(r"\[.*\]|\{.*\}", label, re.DOTALL) and cells.listed(label) is None for label in distinct):
    return ""
  example = next((label for label in labels if "," in label), "")
  return (
    f"the labels are lists without quotes, e.g. {example}: write the names alone, {example[1:-1].strip()!r}, or a JSON "
    "list"
    if example
    else ""
  )


def _sequences(labels, texts):
  """Labels of one word for each word of the text that are no tags: parts of speech, or tags in another form."""
  words = [label.split() for label in labels]
  if texts is None or max(map(len, words)) < 2:
    return ""
  if any(len(row) != len(tags.spans(text)) for row, text in zip(words, texts)):
    return ""
  distinct = {word for row in words for word in row}
  if FEWEST_PER_CLASS * len(distinct) > sum(map(len, words)) or all(tags.is_tag(word) for word in distinct):
    return ""
  odd = min(word for word in distinct if not tags.is_tag(word))
  of_lists = next((label for label in labels if cells.listed(label) is not None), "")
  return (
    f"the labels have as many words as the texts, e.g. {of_lists or repr(odd)}: if they are tags, "
    f"--task=token_classification needs {_TAG_FORM}; if they are classes, pass --task=single_label"
  )


def _words_alone(labels, texts):
  """Tags, one a row, without the sentences of their words."""
  distinct = set(labels)
  if (
    texts is None
    or distinct <= {tags.OUT}
    or not all(tags.is_tag(label) and not label.split()[1:] for label in distinct)
  ):
    return ""
  if any(len(tags.spans(text)) != 1 for text in texts):
    return ""
  return (
    f"every text is one word and every label is one tag, e.g. {labels[0]!r}: name the column that tells the sentence "
    "of a word by --sentence_column, or save the words as .conll with an empty line between two sentences"
  )


def _lists(labels, texts, config):
  """Lists whose members are no names of classes."""
  members = {label: cells.listed(label) for label in set(labels)}
  if config.label_columns or None in members.values():
    return ""
  rows = [members[label] for label in labels]
  as_long = texts is not None and all(len(row) == len(tags.spans(text)) for row, text in zip(rows, texts))
  repeating = next((label for label in labels if len(set(members[label])) < len(members[label])), None)
  nested = next((label for label in labels if any(member[:1] in ("[", "{") for member in members[label])), None)
  if nested is not None and config.task == "auto":
    return (
      f"the labels are lists of lists or of objects, e.g. {nested[:100]}: write the list of the names that apply, or, "
      "of tagged words, one tag per word"
    )
  numbers = [cells.number(member) for row in members.values() for member in row]
  if None in numbers:
    return (
      f"the labels are lists as long as the texts have words, e.g. {repeating}: they are no names of classes; for "
      f"--task=token_classification give {_TAG_FORM}"
      if as_long and repeating is not None and config.task == "auto"
      else ""
    )
  if as_long and repeating is not None:
    return (
      f"the labels are lists of numbers, one for each word, e.g. {cells.shown(repeating)}: they are numbers of tags; "
      "name them by --label_names, number 0 first, e.g. --label_names=O,B-PER,I-PER"
    )
  if config.task != "auto":
    return ""
  if not all(value.is_integer() for value in numbers):
    return (
      f"the labels are lists of numbers that are not whole, e.g. {cells.shown(labels[0])}: they are no names of "
      "classes; write one column per number and name these by --label_columns"
    )
  other = next((label for label in labels if repeating is not None and set(members[label]) - set("01")), None)
  if repeating is not None and len({len(row) for row in rows}) == 1 and set(numbers) <= {-1.0, 0.0, 1.0}:
    count = sum("-1" in row for row in rows)
    found = f"e.g. {cells.shown(other)} (-1 in {number_of(count, 'row')})"
    return f"the labels are vectors of 0, 1 and -1, {found}: write 0 or 1 for -1"
  if repeating is not None:
    return (
      f"a label is a list that holds a number twice, {cells.shown(repeating)}: it holds no names of classes; a 0/1 "
      "vector has the same length in all rows, and tags of words are as many as the text has words"
    )
  return ""


def _columns(config, labels):
  """--label_columns that hold neither 0 and 1 only nor numbers only."""
  names = [name.strip() for name in config.label_columns.split(",") if name.strip()]
  rows = [cells.listed(label) or [label] for label in labels]
  columns = {name: collections.Counter(values) for name, values in zip(names, zip(*rows))}
  if all(value.lower() in cells.FLAGS for values in columns.values() for value in values):
    return ""
  for name, values in columns.items():
    words = [value for value in values if cells.number(value) is None]
    odd = [value for value in words if value.lower() not in cells.FLAGS] or words
    if odd:
      return (
        f"the column {name!r} of --label_columns holds {odd[0]!r} ({number_of(values[odd[0]], 'row')}): write 0 or 1 "
        "(or no and yes) in every row, or a number in every row"
      )
  numbers = {name: {cells.number(value) for value in values} for name, values in columns.items()}
  if all(found <= {-1.0, 0.0, 1.0} for found in numbers.values()):
    name = next(name for name, found in numbers.items() if -1.0 in found)
    count = sum(count for value, count in columns[name].items() if cells.number(value) == -1)
    return (
      f"the column {name!r} of --label_columns holds -1 ({number_of(count, 'row')}), the rest is 0 and 1: make it 0 or "
      "1, or pass --task=regression"
    )
  return ""


def _numbers(labels):
  """Amounts that are not written as numbers, or with other cells among them."""
  counts = collections.Counter(labels)
  plain = [label for label in counts if cells.number(label) is not None]
  written = [label for label in counts if cells.number(label) is None and cells.is_written_number(label)]
  others = [label for label in counts if cells.number(label) is None and not cells.is_written_number(label)]
  if len(plain) + len(written) <= cells.MOST_CLASSES or len(others) > SLIPS * len(counts):
    return ""
  if written:
    return (
      f"the labels are {len(plain) + len(written):,} different numbers, some with separators or units, e.g. "
      f"{written[0]!r}: write them like 1013.5, or pass --task=single_label if they are classes"
    )
  if others and not all(cells.number(label).is_integer() for label in plain):
    rows = sum(counts[label] for label in others)
    return (
      f"the labels are {len(plain):,} different numbers, but {rows:,} row{'s hold' if rows > 1 else ' holds'} "
      f"{others[0]!r}{' and the like' if len(others) > 1 else ''}: correct or remove these rows, or pass "
      "--task=single_label if the labels are classes"
    )
  return ""


def _identifier(config, labels):
  """Labels that hardly recur."""
  distinct = set(labels)
  if len(distinct) <= cells.MOST_CLASSES or len(labels) >= FEWEST_PER_CLASS * len(distinct):
    return ""
  # The names of folders are no column.
  if not config.dataset.startswith("table:"):
    return ""
  if tags.are_tags(distinct) or cells.amounts(distinct) or any(cells.listed(label) is not None for label in distinct):
    return ""
  if config.label_separator or cells.separator(distinct):
    return ""
  amounts = (
    ", --task=regression if they are amounts" if all(cells.number(label) is not None for label in distinct) else ""
  )
  return (
    f"the labels have {len(distinct):,} different values in {len(labels):,} rows, like an identifier or a free text: "
    f"choose another --label_column{amounts}, or pass --task=single_label if they are classes"
  )
