"""Tags of words, "B-person I-person O": the schemes that they come in, all read as BIO, and the entities they mark."""

import re

from tl_app.errors import UserError
from tl_app.tasks import cells

OUT = "O"
# Beginning, inside; the end and the single word of IOBES (E, S) and of BILOU (L, U); the middle of BMES.
_TAG = re.compile(r"O|([BIESLUM])-(.+)", re.DOTALL)
_BEGIN = "BSU"
# What tf.strings.split takes for white space: a no-break space is part of its word.
_WORD = re.compile(r"[^ \t\n\v\f\r]+")


def joined(words):
  """Returns the text of a list of words, str: single spaces between them, spaces within a word as no-break spaces.

  Raises:
    ValueError: a word is no str, or holds nothing; the message is for the user.
  """
  for word in words:
    if not isinstance(word, str) or not word.strip():
      raise ValueError(f"the word {word!r} is empty or no text")
  return " ".join("\u00a0".join(_WORD.findall(word)) for word in words)


def spans(text):
  """Returns [(start, end)] of the words of a text, in characters; words are what white space separates."""
  return [match.span() for match in _WORD.finditer(text)]


def of_cell(cell):
  """Returns the tags of a label cell, a list of str: a JSON list, or what spaces separate."""
  values = cells.listed(cell)
  return cell.split() if values is None else values


def are_tags(labels):
  """Whether the label cells, a set of str, are tags, one a word."""
  found = [of_cell(label) for label in labels]
  return (
    any(len(tags) > 1 for tags in found)
    and any(tag != OUT for tags in found for tag in tags)
    and all(is_tag(tag) for tags in found for tag in tags)
  )


def is_tag(text):
  """Whether a text is a tag of one of the schemes."""
  return bool(_TAG.fullmatch(text))


def split(tag):
  """Returns (prefix, entity type) of a tag, ("", "") of O.

  Raises:
    UserError: it is no tag.
  """
  match = _TAG.fullmatch(tag)
  if not match:
    raise UserError(f"{tag!r} is no tag of a word: O, or B- and I- (also E-, S-, L-, U-) with the type of the entity")
  # A type is one word, since tags stand with spaces between them.
  return match[1] or "", "_".join((match[2] or "").split())


def bio(tags):
  """Returns tags of any scheme as BIO: B- at the first word of every entity, I- at its others.

  An I- that follows no word of its type begins an entity, as in IOB1, and as seqeval and conlleval count it.
  """
  found, before = [], ""
  for prefix, kind in map(split, tags):
    begins = prefix in _BEGIN or kind != before
    found.append(f"{'B' if begins else 'I'}-{kind}" if kind else OUT)
    before = kind
  return found


def scheme(labels):
  """Returns the name of the scheme of label cells, str [n]: "IOBES", "BILOU", "IOB1" or "BIO".

  In IOB1 an entity begins with I-, and with B- only directly after another one of its type.
  """
  prefixes, marked, loose = set(), 0, 0
  for label in labels:
    before = ""
    for prefix, kind in map(split, of_cell(label)):
      prefixes.add(prefix)
      marked += prefix == "B" and kind != before
      loose += prefix == "I" and kind != before
      before = kind
  if prefixes & set("LU"):
    return "BILOU"
  if prefixes & set("ESM"):
    return "IOBES"
  return "IOB1" if loose and not marked else "BIO"


def entities(tags):
  """Returns [(type, first word, last word)] that BIO tags mark, by seqeval."""
  from seqeval.metrics.sequence_labeling import get_entities

  return get_entities(list(tags))
