"""The label review: which labels are probably wrong, from all that tells it."""

import collections
from collections.abc import Iterable

import numpy as np

from tl_app.checking.findings import Subject
from tl_app.data.corrections import Proposal


def split_names(subject: Subject) -> np.ndarray:
  """Returns the name of the split of each example, object array [n]; "" outside of every split."""
  names = np.full(len(subject.examples), "", dtype=object)
  for split, indices in subject.splits.items():
    names[indices] = split
  return names


def conflicts(subject: Subject) -> list[Proposal]:
  """Returns a proposal for each example whose label is not the most frequent one of its content."""
  examples, splits = subject.examples, split_names(subject)
  members = collections.defaultdict(list)
  for index, content in enumerate(subject.fingerprints.contents):
    members[content].append(index)
  found = []
  for indices in members.values():
    # Cells that differ in writing only, such as the order of several classes, are one label.
    counts = collections.Counter(examples.classes[index] for index in indices)
    classes, number = counts.most_common(1)[0]
    if len(counts) < 2:
      continue
    label = next(examples.labels[index] for index in indices if examples.classes[index] == classes)
    equal = f"label of {number} of {len(indices)} equal contents"
    found += [
      Proposal(index, label, number / len(indices), equal, splits[index])
      for index in indices
      if examples.classes[index] != classes
    ]
  return sorted(found, key=lambda proposal: -proposal.confidence)


def merged(*found: Iterable[Proposal]) -> list[Proposal]:
  """Returns the proposals, of several about one example the first; those about test first: they decide the metrics.

  Those of a split are in the order of their confidence, the surest first.
  """
  by_index: dict[int, Proposal] = {}
  for proposal in (proposal for proposals in found for proposal in proposals):
    by_index.setdefault(proposal.index, proposal)
  order = {"test": 0, "validation": 1}
  return sorted(by_index.values(), key=lambda proposal: (order.get(proposal.split, 2), -proposal.confidence))
