"""Tags of words, like "B-person I-person O": their schemes, all read as BIO, and the entities that they mark."""

import re
from collections.abc import Iterable

from seqeval.metrics import sequence_labeling

from tl_app.errors import UserError

OUT = "O"
# Beginning, inside; the end and the single word of IOBES (E, S) and of BILOU (L, U); the middle of BMES.
_TAG = re.compile(r"O|([BIESLUM])-(.+)", re.DOTALL)
_BEGIN = "BSU"
# The white space of tf.strings.split: a no-break space is part of its word.
_WORD = re.compile(r"[^ \t\n\v\f\r]+")


def joined(texts: Iterable[str]) -> str:
  """Returns one text of a list of words, str: single spaces between them, no-break spaces within a word.

  Raises:
    ValueError: a word is no str, or holds nothing; the message is for the user.
  """
  for word in texts:
    if not isinstance(word, str) or not word.strip():
      raise ValueError(f"the word {word!r} is empty or no text")
  return " ".join("\u00a0".join(words(word)) for word in texts)


def words(text: str) -> list[str]:
  """Returns the words of a text, a list of str: what white space separates."""
  return _WORD.findall(text)


def spans(text: str) -> list[tuple[int, int]]:
  """Returns [(start, end)] of the `words` of a text, in characters."""
  return [match.span() for match in _WORD.finditer(text)]


def as_cell(values) -> str | None:
  """Returns the label cell of a list of tags, str: spaces between them; None of anything else."""
  if not (values and isinstance(values, (list, tuple)) and all(isinstance(v, str) and is_tag(v) for v in values)):
    return None
  # A type is one word then, since spaces stand between the tags.
  return " ".join("_".join(value.split()) for value in values)


def are_tags(labels: set[str]) -> bool:
  """Whether the label cells, a set of str, are tags, one a word."""
  found = [label.split() for label in labels]
  return (
    any(len(tags) > 1 for tags in found)
    and any(tag != OUT for tags in found for tag in tags)
    and all(is_tag(tag) for tags in found for tag in tags)
  )


def is_tag(text: str) -> bool:
  """Whether a text is a tag of one of the schemes."""
  return bool(_TAG.fullmatch(text))


def split(tag: str) -> tuple[str, str]:
  """Returns (prefix, entity type) of a tag, ("", "") of O.

  Raises:
    UserError: it is no tag.
  """
  match = _TAG.fullmatch(tag)
  if not match:
    raise UserError(
      f"--task=token_classification, but a label holds {tag!r}, which is no tag of a word: O, or B- and I- (also E-, "
      "S-, L-, U-) with the type of the entity"
    )
  return match[1] or "", match[2] or ""


def bio(tags: Iterable[str]) -> list[str]:
  """Returns tags of any scheme as BIO: B- at the first word of every entity, I- at its others.

  An I- that follows no word of its type begins an entity, as in IOB1, and as seqeval and conlleval count it.
  """
  found, before = [], ""
  for prefix, kind in map(split, tags):
    begins = prefix in _BEGIN or kind != before
    found.append(f"{'B' if begins else 'I'}-{kind}" if kind else OUT)
    before = kind
  return found


def scheme(labels: Iterable[str]) -> str:
  """Returns the name of the scheme of label cells, str [n]: "IOBES", "BILOU", "IOB1" or "BIO".

  In IOB1 an entity begins with I-, and with B- only directly after another one of its type.
  """
  prefixes, marked, loose = set(), 0, 0
  for label in labels:
    before = ""
    for prefix, kind in map(split, label.split()):
      prefixes.add(prefix)
      marked += prefix == "B" and kind != before
      loose += prefix == "I" and kind != before
      before = kind
  if prefixes & set("LU"):
    return "BILOU"
  if prefixes & set("ESM"):
    return "IOBES"
  return "IOB1" if loose and not marked else "BIO"


def entities(tags: Iterable[str]) -> list[tuple[str, int, int]]:
  """Returns [(type, first word, last word)] that BIO tags mark, by seqeval."""
  return sequence_labeling.get_entities(list(tags))
