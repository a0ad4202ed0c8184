"""What cannot be read, repeats, contradicts itself, or is in two given splits."""

import collections
import re

import numpy as np

from tl_app.checking.findings import SHOWN, find
from tl_app.data.examples import SPLITS, brief
from tl_app.data.readers.rows import EMPTY_CLASS
from tl_app.data.splitting import duplicates, shared_texts, splits

_OF_REASON = {
  "it is empty": "empty_file",
  "the text is empty": "empty_text",
  "it has no label": "no_label",
  EMPTY_CLASS: "empty_class",
}


def findings(subject):
  """Yields the findings about the contents of a `Subject`."""
  yield from skipped(subject.examples)
  yield from repeats(subject)
  yield from conflicts(subject)
  yield from leaks(subject)
  yield from common_texts(subject)


def skipped(examples):
  """Yields the findings about the examples that were removed as bad."""
  by_kind = collections.defaultdict(list)
  for bad in examples.skipped:
    by_kind[_kind(bad["reason"])].append(bad)
  total = len(examples) + len(examples.skipped)
  for kind, members in by_kind.items():
    shown = [bad["id"] if bad["reason"] in _OF_REASON else f"{bad['id']} ({bad['reason']})" for bad in members[:SHOWN]]
    yield from find(kind, len(members), total, examples=shown)


def _kind(reason):
  # A reason may name the column or the word of a sentence beside what is wrong.
  return next((kind for fault, kind in _OF_REASON.items() if fault in reason), "unreadable")


def repeats(subject):
  """Yields exact duplicates, near duplicates, and texts that differ in numbers only."""
  examples, fingerprints = subject.examples, subject.fingerprints
  yield from _repeating("duplicates", examples, np.arange(len(examples)), fingerprints.contents)
  distinct = np.unique(fingerprints.contents, return_index=True)[1]
  yield from _repeating("near_duplicates", examples, distinct, fingerprints.near)
  if fingerprints.texts is not None:
    folded = duplicates.numbered(
      [re.sub(r"\d+", "0", text) if _has_letter(text) else text for text in fingerprints.texts]
    )
    distinct = np.unique(fingerprints.near, return_index=True)[1]
    yield from _repeating("same_but_numbers", examples, distinct, folded)


def _has_letter(text):
  return any(character.isalpha() for character in text)


def _repeating(kind, examples, indices, groups):
  """Yields the finding about the `indices` whose group an earlier one has."""
  indices = np.sort(indices)
  _, first, inverse = np.unique(groups[indices], return_index=True, return_inverse=True)
  later = np.flatnonzero(first[inverse] != np.arange(len(indices)))
  pairs = [(indices[i], indices[first[inverse[i]]]) for i in later[:SHOWN]]
  yield from find(kind, len(later), len(indices), examples=[_pair(examples, *pair) for pair in pairs])


def conflicts(subject):
  """Yields equal and nearly equal contents under several labels."""
  examples, fingerprints = subject.examples, subject.fingerprints
  exact = _conflicting(examples.classes, fingerprints.contents)
  told = {fingerprints.near[group[0]] for group in exact}
  # A group of near duplicates that holds an exact conflict says nothing new.
  near = [
    group for group in _conflicting(examples.classes, fingerprints.near) if fingerprints.near[group[0]] not in told
  ]
  for kind, conflicting, groups in (
    ("conflicting_labels", exact, fingerprints.contents),
    ("near_conflicting_labels", near, fingerprints.near),
  ):
    others = [
      next(i for i in group if examples.classes[i] != examples.classes[group[0]]) for group in conflicting[:SHOWN]
    ]
    shown = [_pair(examples, group[0], other, labels=True) for group, other in zip(conflicting, others)]
    yield from find(kind, len(conflicting), len(np.unique(groups)), examples=shown)


def _conflicting(classes, groups):
  """Returns the groups whose `classes` differ, as lists of indices, in order of their first."""
  members = collections.defaultdict(list)
  for index, group in enumerate(groups):
    members[group].append(index)
  return [group for group in members.values() if len(set(classes[group])) > 1]


def leaks(subject):
  """Yields what given splits share."""
  kinds = {"exact": "leak", "near": "near_leak", "group": "group_leak"}
  given = {split: subject.given.get(split, np.zeros(0, np.int64)) for split in SPLITS}
  for split, other, kind, pairs in splits.leaks(subject.examples, given, subject.fingerprints):
    shown = [_pair(subject.examples, *pair) for pair in pairs[:SHOWN]]
    yield from find(kinds[kind], len(pairs), len(given[split]), f"{split} in {other}", shown)


def common_texts(subject):
  """Yields what the pairs of validation and test, given or sampled, share with those of train: one of their texts."""
  for split in ("validation", "test"):
    indices = subject.splits[split]
    by_column = shared_texts.shared(subject.fingerprints, indices, subject.splits["train"])
    first = {index: other for pairs in reversed(by_column.values()) for index, other in pairs}
    shares = [f"--{name}_column {len(pairs) / len(indices):.1%}" for name, pairs in by_column.items() if pairs]
    shown = [_pair(subject.examples, index, first[index]) for index in sorted(first)[:SHOWN]]
    yield from find("shared_texts", len(first), len(indices), f"{split}: {', '.join(shares)}", shown)


def _pair(examples, index, other, labels=False):
  if labels:
    one, two = (f"{examples.ids[i]} ({brief(examples.labels[i])})" for i in (index, other))
    return f"{one} = {two}"
  return f"{examples.ids[index]} = {examples.ids[other]}"
