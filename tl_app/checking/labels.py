"""What is wrong with the classes: their names, sizes, and how the splits share them."""

import collections
import os
import re
import unicodedata

import numpy as np
import scipy.stats

from tl_app.checking.findings import find
from tl_app.tasks import cells

# Largest class over smallest, in train.
IMBALANCE = 5
MIN_CONTENTS = 3
# Between two words, of which at most one is a number: "v1.0" is not "v10", "C#" not "C" and "A-" not "A".
_SEPARATORS = re.compile(r"(?<=[^\W\d])[ .,'/-]+(?=\w)|(?<=\d)[ .,'/-]+(?=[^\W\d])")
_OPENING = {"]": "[", "}": "{"}
# A typing error gives a class at least so many times smaller than the right one, which has at least LARGE examples;
# names of fewer letters than SHORT are often one letter apart.
LARGE, TIMES, SHORT = 10, 10, 4
# Examples of a rare spelling that are named.
PLACES = 3
# What tables write where a value is missing.
_PLACEHOLDERS = frozenset(["nan", "na", "n/a", "#n/a", "null", "none", "nil", "missing", "undefined", "?", "-", "--"])
# A given split is unlike train when chance alone would give its classes less than once in 1,000 (chi-square), and the
# difference is not small: Cramer's V, 0 for the same distribution, 1 for one that has nothing in common.
P_VALUE = 1e-3
CRAMERS_V = 0.1


def findings(subject):
  """Yields the findings about the labels of a `Subject`."""
  given, train = subject.given, subject.count(subject.splits["train"])
  pool = subject.count(np.flatnonzero(np.isin(subject.examples.splits, ("", "train"))))
  if len(pool) == 1 and subject.task.has_class_names:
    yield from find("one_class", 1, examples=list(pool))
  if subject.task.has_class_names:
    yield from _unseen(subject, pool)
    counts = subject.count(range(len(subject.examples)))
    yield from _bracketed(counts)
    spellings = _spellings(counts)
    yield from _similar(spellings, counts, subject.examples)
    missing = {label: count for label, count in sorted(counts.items()) if label.casefold() in _PLACEHOLDERS}
    shown = [f"{label!r} ({count:,})" for label, count in missing.items()]
    yield from find("placeholder_labels", sum(missing.values()), len(subject.examples), examples=shown)
    yield from _sizes(subject, pool)
    if len(train) > 1:
      yield from _imbalance(train, spellings)
  for split in ("validation", "test"):
    if split in given and train:
      yield from _unlike(split, subject.count(given[split]), train)


def _bracketed(counts):
  shown = [f"{name!r} ({count:,})" for name, count in sorted(counts.items()) if _is_bracketed(name)]
  yield from find("bracketed_labels", len(shown), len(counts), examples=shown)


def _is_bracketed(name):
  """Whether a name looks like a list or a part of one: [a, 'b', c], b'd' and [a, b] do, "a [b]" and [a] do not."""
  if not name or re.fullmatch(r"\[[^][{},'\"]+\]", name):
    return False
  if re.fullmatch(r"b'.*'|b\".*\"", name, re.DOTALL):
    return True
  closes = name[-1] in _OPENING and _OPENING[name[-1]] not in name
  return closes or name[0] in "[{" or (len(name) > 1 and name[0] == name[-1] and name[0] in "'\"")


def _similar(spellings, counts, examples):
  ids = collections.defaultdict(list)
  for names, id in zip(examples.classes, examples.ids):
    for name in spellings.keys() & set(names):
      ids[name].append(id)
  shown = [f"{name!r} ({_places(ids[name])}) = {other!r} ({counts[other]:,})" for name, other in spellings.items()]
  detail = f"in {sum(map(len, ids.values())):,} of {len(examples):,} examples"
  yield from find("similar_labels", len(spellings), len(counts), detail, shown)


def _places(ids):
  """Returns the number of examples with the first of them, like "12: t.csv:3, t.csv:8, .."."""
  return f"{len(ids):,}: {', '.join([*ids[:PLACES], *(['..'] if len(ids) > PLACES else [])])}"


def _spellings(counts):
  """Returns {label: the more frequent label of which it seems to be another spelling}, from {label: examples}."""
  same = collections.defaultdict(list)
  for name in sorted(counts):
    same[_spelt_alike(name)].append(name)
  errors = {small: large for large, small in _typing_errors(counts)}
  for small, large in errors.items():
    alone = same[_spelt_alike(small)] == [small]
    if alone and large not in errors:
      same[_spelt_alike(large)].append(small)
  spellings = {}
  for group in same.values():
    kept = max(group, key=counts.__getitem__)
    spellings |= {name: kept for name in group if name != kept}
  return spellings


def _typing_errors(counts):
  """Returns [[large class, small one]]: names of letters with one typing error between them, of very different size."""
  near = collections.defaultdict(list)
  large = {name: count for name, count in counts.items() if count >= LARGE}
  for name in sorted(large):
    for part in _with_one_deleted(name.casefold()):
      near[part].append(name)
  pairs = []
  for name, count in sorted(counts.items()):
    if len(name) < SHORT:
      continue
    others = {other for part in _with_one_deleted(name.casefold()) for other in near.get(part, ())}
    others = [
      other
      for other in sorted(others)
      if count * TIMES <= large[other] and _is_typing_error(name.casefold(), other.casefold())
    ]
    pairs += [[max(others, key=large.get), name]] if others else []
  return pairs


def _with_one_deleted(name):
  return {name, *(name[:place] + name[place + 1 :] for place in range(len(name)))}


def _is_typing_error(name, other):
  """Whether two names differ by one letter that is added, absent, another one or at the place of its neighbour.

  The first letter is seldom mistyped: "typical" and "atypical" are two names. Digits, signs and letters that are words
  of their own tell names apart: "vitamin C" and "vitamin D".
  """
  if name[0] != other[0]:
    return False
  start = len(os.path.commonprefix([name, other]))
  first, second = name[start:], other[start:]
  end = len(os.path.commonprefix([first[::-1], second[::-1]]))
  first, second = first[: len(first) - end], second[: len(second) - end]
  before, after = name[:start][-1:], name[len(name) - end :][:1]
  if not before.isalnum() and not after.isalnum():
    return False
  swapped = len(first) == len(second) == 2 and first == second[::-1]
  return (swapped or max(len(first), len(second)) == 1) and (first + second).isalpha()


def _spelt_alike(name):
  """Returns what two names share that differ in case, separators and invisible characters only, or are one number."""
  number = cells.number(name)
  if number is not None:
    return number
  seen = "".join(letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
  folded = " ".join(seen.casefold().replace("_", " ").split())
  return _SEPARATORS.sub("", folded.strip(" .,;:!?'\"")) or folded


def _unseen(subject, known):
  unseen = {}
  for split in ("validation", "test"):
    for label, count in subject.count(subject.given.get(split, ())).items():
      if known and label not in known:
        unseen[label, split] = count
  shown = [f"{label!r} ({count:,} in {split})" for (label, split), count in sorted(unseen.items())]
  yield from find("unseen_labels", len({label for label, _ in unseen}), examples=shown)


def _sizes(subject, pool):
  if {"validation", "test"} <= subject.given.keys():
    return
  contents = collections.defaultdict(set)
  for names, unit, split in zip(subject.examples.classes, subject.fingerprints.near, subject.examples.splits):
    for label in names if split in ("", "train") else ():
      contents[label].add(unit)
  small = {label: len(units) for label, units in contents.items() if len(units) < MIN_CONTENTS}
  yield from find(
    "small_classes", len(small), len(pool), examples=[f"{label!r} ({n})" for label, n in sorted(small.items())]
  )


def _imbalance(train, spellings):
  largest, smallest = _extremes(train)
  ratio = train[largest] / train[smallest]
  if ratio < IMBALANCE:
    return
  detail = f"in train {largest!r} has {train[largest]:,}, {smallest!r} {train[smallest]:,}: 1 to {ratio:.1f}"
  merged = collections.Counter()
  for name, count in train.items():
    merged[spellings.get(name, name)] += count
  others = [merged[name] for name in _extremes(merged)]
  only_spellings = others[0] < IMBALANCE * others[1]
  advice = (
    f"correct the labels of similar_labels: it is 1 to {others[0] / others[1]:.1f} then" if only_spellings else ""
  )
  yield from find("class_imbalance", round(ratio), detail=detail, advice=advice)


def _extremes(counts):
  return counts.most_common()[0][0], counts.most_common()[-1][0]


def _unlike(split, counts, train):
  names = sorted(set(counts) | set(train))
  table = np.array([[counts[name] for name in names], [train[name] for name in names]])
  # Of several labels an example a split may have none at all.
  if len(names) < 2 or not table.sum(axis=1).all():
    return
  statistic, p_value, _, _ = scipy.stats.chi2_contingency(table)
  strength = float(np.sqrt(statistic / table.sum()))
  if p_value >= P_VALUE or strength < CRAMERS_V:
    return
  shares = table / table.sum(axis=1, keepdims=True)
  worst = np.argsort(-np.abs(shares[0] - shares[1]), kind="stable")
  shown = [f"{names[i]!r} ({shares[1, i]:.1%} of train, {shares[0, i]:.1%} of {split})" for i in worst[:5]]
  yield from find("split_imbalance", 1, detail=f"{split}: p = {p_value:.1g}, Cramer's V {strength:.2f}", examples=shown)
