"""What is odd about texts: their characters, and what a backbone's vocabulary makes of them."""

import collections
import math
import re
import unicodedata

import numpy as np
import tensorflow as tf

from tl_app.checking.findings import SHOWN, find, named
from tl_app.data.splitting.text_fingerprints import normalized
from tl_app.preprocessing import long_text
from tl_app.terminal.progress import counted

# The name of a class is in this share of its texts, and in at most the other share of the rest.
NAME_IN_OWN, NAME_ELSEWHERE = 0.9, 0.1
MIN_TEXTS = 10
# Shares of all tokens: from the first on the unknown ones are told, from the second on they are serious.
UNKNOWN_TOLD, UNKNOWN_SERIOUS = 0.001, 0.1
# Share of the texts that the advised length reads whole, if more than the others are cut now.
READ_WHOLE = 0.95
_BATCH = 1024
_HTML = re.compile(
  r"</?(?:a|b|i|u|p|br|hr|div|span|em|strong|font|img|table|td|tr|th|li|ul|ol|h[1-6]|script|style|html|head|body|title"
  r"|pre|code|blockquote)(?:\s[^<>]*)?/?>|&(?:amp|lt|gt|quot|nbsp|apos|#\d{1,7}|#x[0-9a-f]{1,6});",
  re.IGNORECASE,
)
# UTF-8 read as Windows-1252: a lead byte as a letter, and what its followers become. Two of the leads of Cyrillic and
# Arabic in a row: one before a quotation mark is Danish.
_MOJIBAKE = re.compile("[ÂÃ][^\x00-\x7f]|[âãïð][^\x00-\x7f]{2,3}|(?:[ÐÑØÙ][^\x00-\x7f]){2}")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff]")


def findings(subject, preprocess=None):
  """Yields the findings about the texts of a `Subject`.

  Args:
    subject: `Subject`.
    preprocess: `Backbone.preprocess`, with the length that training reads: what it loses of the texts is a finding too.
  """
  yield from _characters(subject)
  if preprocess:
    yield from tokens(subject, preprocess)


def _characters(subject):
  examples = subject.examples

  def those(test):
    return np.array([any(test(text) for text in row) for row in examples.inputs.rows()])

  for kind, test in CHARACTERS.items():
    yield from named(kind, examples, those(test))
  if subject.task.has_class_names:
    yield from _label_in_text(subject)


def unlabelled(texts):
  """Returns the findings about texts without labels; memory does not grow with them.

  Args:
    texts: iterator of `text_files.Text`.
  """
  counts, shown = collections.Counter(), collections.defaultdict(list)
  for text in texts:
    counts[""] += 1
    kinds = ["unreadable"] if text.reason else [kind for kind, test in CHARACTERS.items() if test(text.text)]
    for kind in kinds:
      counts[kind] += 1
      if len(shown[kind]) < SHOWN:
        shown[kind].append(f"{text.id}: {text.reason}" if text.reason else text.id)
  total = counts.pop("", 0)
  return [finding for kind in counts for finding in find(kind, counts[kind], total, "", shown[kind])]


def _has_mojibake(text):
  return not text.isascii() and any(_decodes(match.group()) for match in _MOJIBAKE.finditer(text))


# {kind of finding: function that tells of a text whether it has it}.
CHARACTERS = {
  "replacement_characters": lambda text: "\ufffd" in text,
  "mojibake": _has_mojibake,
  "control_characters": _CONTROLS.search,
  "html": _HTML.search,
  "no_words": lambda text: not any(map(str.isalnum, text)),
}


def _decodes(run):
  for length in range(2, len(run) + 1):
    for encoding in ("cp1252", "latin-1"):
      try:
        run[:length].encode(encoding).decode("utf-8")
        return True
      except UnicodeError:
        pass
  return False


def _label_in_text(subject):
  members = collections.defaultdict(list)
  for index, names in enumerate(subject.examples.classes):
    for name in set(names):
      members[name].append(index)
  texts, told = subject.fingerprints.texts, []
  for label in sorted(members):
    name, own = normalized(label.replace("_", " ")), members[label]
    if not MIN_TEXTS <= len(own) < len(texts) or not any(map(str.isalpha, name)):
      continue
    inside = np.mean([holds_name(name, texts[index]) for index in own])
    # The others are read only where it matters: with thousands of classes they would be for each.
    if inside < NAME_IN_OWN:
      continue
    elsewhere = [holds_name(name, texts[index]) for index in np.setdiff1d(np.arange(len(texts)), own)]
    if np.mean(elsewhere) <= NAME_ELSEWHERE:
      told.append(f"{label!r} ({inside:.0%})")
  yield from find("label_in_text", len(told), len(members), examples=told)


def holds_name(name, text):
  """Whether a normalised text holds a name: as whole words; anywhere where there are none between spaces (Chinese)."""
  wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in name)
  return name in text if wide else f" {name} " in f" {text} "


def tokens(subject, preprocess):
  """Yields what a backbone's tokens lose of the texts of a `Subject`.

  Args:
    subject: `Subject`.
    preprocess: `Backbone.preprocess`, with the length that training reads.
  """
  if not preprocess.limit:
    return
  examples = subject.examples
  unknown, counts, lengths = _unknown_id(preprocess, examples.inputs), [], []
  unknowns = np.zeros(len(examples), np.int64)
  starts = range(0, len(examples), _BATCH)
  for start in counted(starts, len(starts), "reading batches of texts"):
    batch = tf.constant(examples.inputs[start : start + _BATCH].array(), tf.string)
    ids = preprocess.tokenize(batch)
    lengths.append(preprocess.count_tokens(batch).numpy())
    counts.append(ids.row_lengths().numpy())
    if unknown is not None:
      of_text = tf.reduce_sum(tf.cast(tf.equal(ids, tf.cast(unknown, ids.dtype)), tf.int64), axis=1)
      unknowns[start : start + _BATCH] = of_text.numpy()
  counts = np.concatenate(counts)
  yield from _long(examples, np.concatenate(lengths), preprocess)
  yield from _unknown(examples, counts, unknowns)


def _unknown_id(preprocess, inputs):
  """Returns the id of the unknown token: WordPiece's of a word of 1,000 letters; None where every text has tokens."""
  word = "q" * 1000
  row = [word, *[""] * (len(inputs.columns) - 1)]
  ids = preprocess.tokenize(tf.constant([row if len(row) > 1 else word])).flat_values.numpy()
  return int(ids[0]) if len(ids) == 1 else None


def _long(examples, lengths, preprocess):
  lost = lengths - long_text.tokens_read(preprocess, lengths)
  share = READ_WHOLE if np.mean(lost > 0) > 1 - READ_WHOLE else 1.0
  most = int(np.quantile(lengths, share, method="higher"))
  texts = f"{share:.0%} of the texts" if share < 1 else "all texts"
  detail = (
    f"{np.mean(lost > 0):.2%} of the texts and {lost.sum() / max(lengths.sum(), 1):.2%} of the tokens are cut at "
    f"{_size(preprocess)}; {texts} have at most {most:,}"
  )
  longest = np.argsort(-lengths, kind="stable")[:SHOWN]
  shown = [f"{examples.ids[i]} ({lengths[i]:,} tokens)" for i in longest if lost[i]]
  advice = f"{flags} reads {texts} whole" if (flags := _longer(preprocess, most)) else "shorten them"
  yield from find("long_texts", np.sum(lost > 0), len(examples), detail, shown, advice)


def _longer(preprocess, count):
  """Returns the flags with which a text of `count` tokens is read whole, or "" if there are none."""
  if preprocess.max_windows > 1:
    return f"--max_windows={long_text.num_windows(preprocess.max_length, count)}"
  if count <= preprocess.limit:
    return f"--max_length={min(math.ceil(count / 16) * 16, preprocess.limit)}"
  if not preprocess.can_pack:
    return ""
  length = min(long_text.WINDOW_LENGTH, preprocess.limit)
  return f"--long_text=windows --max_length={length} --max_windows={long_text.num_windows(length, count)}"


def _size(preprocess):
  most = preprocess.max_windows
  return f"{preprocess.max_length} tokens" if most == 1 else f"{most} windows of {preprocess.max_length} tokens"


def _unknown(examples, counts, unknowns):
  share = unknowns.sum() / max(counts.sum(), 1)
  if share < UNKNOWN_TOLD:
    return
  affected, rows = np.flatnonzero(unknowns), examples.inputs.rows()
  scripts = collections.Counter(script for i in affected for script in _scripts("".join(rows[i])))
  common = ", ".join(f"{script} in {count:,}" for script, count in scripts.most_common(3))
  detail = f"{share:.1%} of all tokens; letters: {common or 'none'}"
  worst = affected[np.argsort(-unknowns[affected], kind="stable")]
  for finding in find("unknown_tokens", len(affected), len(examples), detail, list(examples.ids[worst[:SHOWN]])):
    yield finding if share < UNKNOWN_SERIOUS else finding.worse()


def _scripts(text):
  """Returns the scripts of a text's letters, e.g. {"LATIN", "CJK"}: the first words of their Unicode names."""
  return {unicodedata.name(letter, "UNKNOWN").split(" ")[0] for letter in set(text) if letter.isalpha()}
