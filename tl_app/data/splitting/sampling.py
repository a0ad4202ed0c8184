"""Samples test and validation examples from those of train: by class, by class and group, or by time."""

import collections
import dataclasses
import datetime
import hashlib
import math

import numpy as np
import scipy.sparse

from tl_app.errors import UserError
from tl_app.errors.counts import number_of


@dataclasses.dataclass(frozen=True)
class Pool:
  """What sampling needs to know of n examples.

  Attributes:
    indices: int [p], the examples that may be sampled.
    units: int [n]; examples of one unit stay together.
    hashes: object [n] of str, the contents' hashes, which decide the order of sampling.
    classes: object [n] of tuples of str: one class, several, or none.
    given: frozenset of the units that a given split has as well: they stay in train.
    fractions: {split: share of what is left}, in the order in which they are sampled.
    seed: int.
  """

  indices: np.ndarray
  units: np.ndarray
  hashes: np.ndarray
  classes: np.ndarray
  given: frozenset
  fractions: dict
  seed: int

  def classes_of(self, indices):
    """Returns the set of the classes of some examples."""
    return {name for index in indices for name in self.classes[index]}

  def wanted(self):
    """Returns {split: how many examples it should have}."""
    wanted, rest = {}, float(len(self.indices))
    for split, fraction in self.fractions.items():
      wanted[split] = fraction * rest
      rest -= wanted[split]
    return wanted

  def members(self):
    """Returns {unit: its examples in the pool}, in sampling order: by the first of its contents."""
    members = collections.defaultdict(list)
    for index in self.indices:
      members[self.units[index]].append(index)
    first = {unit: min(order(self.seed, self.hashes[i]) for i in group) for unit, group in members.items()}
    return {unit: members[unit] for unit in sorted(members, key=first.get)}


def order(seed: int, digest: str) -> str:
  """Returns the sort key of a content: pseudo-random, and the same wherever the content is."""
  return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()


def by_class(pool: Pool) -> tuple[dict[str, np.ndarray], list[str]]:
  """Samples each class by its own share.

  Returns:
    ({split: its positions}, notes for the user).
  """
  strata, rare = _strata(pool)
  assigned = _all_in_train(pool)
  for groups in strata.values():
    free = [group for group in groups if pool.units[group[0]] not in pool.given]
    may_leave = min(len(free), len(groups) - 1)
    rest = sum(map(len, groups))
    for position, (split, fraction) in enumerate(pool.fractions.items()):
      later = len(pool.fractions) - position - 1
      chosen = _first_fitting(free, fraction * rest, min(may_leave, max(1, may_leave - later)))
      for group in chosen:
        assigned[group] = split
      gone = {group[0] for group in chosen}
      free = [group for group in free if group[0] not in gone]
      may_leave -= len(chosen)
      rest -= sum(map(len, chosen))
  return _by_split(pool, _with_every_class_in_train(pool, strata, assigned)), _rare_note(rare)


def _all_in_train(pool):
  """Returns object [n] of split names: "train" for every example."""
  return np.full(len(pool.units), "train", object)


def _by_split(pool, assigned):
  """Returns {split: positions of its examples} of object [n] of split names."""
  return {split: np.flatnonzero(assigned == split) for split in pool.fractions}


def _rare_note(rare):
  if not rare:
    return []
  listed = ", ".join(f"{label!r} ({count})" for label, count in sorted(rare.items())[:10])
  return [f"classes with fewer than three different examples, which are not in every split: {listed}"]


def _strata(pool):
  """Returns ({label: units in sampling order}, {label: units} of the labels with fewer than three units).

  A unit is the list of its examples. With several labels it belongs to the rarest of them.
  """
  members = pool.members()
  labels = {unit: sorted(pool.classes_of(group)) or [""] for unit, group in members.items()}
  count = collections.Counter(label for names in labels.values() for label in names)
  strata = collections.defaultdict(list)
  for unit, group in members.items():
    strata[min(labels[unit], key=lambda label: (count[label], label))].append(group)
  return strata, {label: number for label, number in count.items() if number < 3}


def _first_fitting(groups, share, at_most):
  """Returns the first groups that together have about `share` examples: one at least, if `at_most` lets."""
  wanted, size, chosen = math.floor(share + 0.5), 0, []
  for group in groups:
    if len(chosen) == at_most or size == wanted:
      break
    if size + len(group) <= wanted:
      chosen.append(group)
      size += len(group)
  if not chosen and at_most > 0:
    chosen = [min(groups, key=len)]
  return chosen


def _with_every_class_in_train(pool, strata, assigned):
  """Returns `assigned` with a unit in train of each label that has none there: it was sampled under another label."""
  assigned = assigned.copy()
  kept = pool.indices[assigned[pool.indices] == "train"]
  missing = pool.classes_of(pool.indices) - pool.classes_of(kept)
  for label in sorted(missing):
    group = next(g for groups in strata.values() for g in groups if label in pool.classes_of(g))
    assigned[group] = "train"
  return assigned


def by_group(pool: Pool, flag: str = "") -> tuple[dict[str, np.ndarray], list[str]]:
  """Samples whole units, with the classes as even as these allow.

  Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011): the class with the fewest units left goes first,
  each of its units to the split that still wants most of this class. Larger units go first, so that small ones fill up;
  then single units move where that makes the splits more even.

  Args:
    pool: `Pool`.
    flag: "--group_column=NAME", for messages; "" if the units are not those of a flag.

  Returns:
    ({split: its positions}, notes for the user).

  Raises:
    UserError: too few groups.
  """
  assigned, members = _all_in_train(pool), pool.members()
  rank = {unit: place for place, unit in enumerate(members)}
  free = [unit for unit in members if unit not in pool.given]
  needed = len(pool.fractions)
  if flag and (len(free) < needed or len(members) <= needed):
    raise UserError(
      f"{flag} has {number_of(len(members), 'group')} of different contents to sample from: {needed + 1} or more are "
      f"needed to sample {' and '.join(pool.fractions)}"
    )
  free.sort(key=lambda unit: (-len(members[unit]).bit_length(), rank[unit]))
  if not free:
    return _by_split(pool, assigned), []
  counts = _counts(pool, list(members.values()))
  units = _Units(counts[[rank[unit] for unit in free]])
  total = counts.sum(axis=0)
  splits, wanted = _wanted(pool, total)
  wanted[-1] -= total - units.total
  place = _refined(units, _stratified(units, wanted.copy()), wanted)
  _every_class_everywhere(units, place, len(splits), total - units.total)
  for unit, where in zip(free, place):
    assigned[members[unit]] = splits[where]
  return _by_split(pool, assigned), []


class _Units:
  """How many examples of each class units have. Most units have few of the classes, so only those are held.

  Attributes:
    rows: for each unit (int [k], float [k]), columns and how many of its examples they count. A column is a class; the
      last one counts all examples, also those of no class.
    holders: for each column int [k], the units that have it.
    sizes: float [units], the number of examples of each.
    total: float [columns], the sum over the units.
  """

  def __init__(self, counts):
    """Takes the counts, a sparse float array [units, columns]."""
    self._counts = scipy.sparse.csr_array(counts)
    self._counts.sort_indices()
    bounds = self._counts.indptr[1:-1]
    self.rows = list(zip(np.split(self._counts.indices, bounds), np.split(self._counts.data, bounds)))
    columns = scipy.sparse.csc_array(self._counts)
    columns.sort_indices()
    self.holders = np.split(columns.indices, columns.indptr[1:-1])
    self.sizes = np.array([numbers[-1] for _, numbers in self.rows])
    self.total = self._counts.sum(axis=0)

  def __len__(self):
    return len(self.rows)

  def sums(self, place, num_splits):
    """Returns float [num_splits, columns]: what each split has if unit i is in split `place[i]`."""
    ones = np.ones(len(place))
    return (
      scipy.sparse.csr_array((ones, (place, np.arange(len(place)))), (num_splits, len(place))) @ self._counts
    ).toarray()


def _counts(pool, groups):
  """Returns a sparse float array [groups, classes + 1]: of each list of examples, those of each class, and all."""
  column = {name: place for place, name in enumerate(sorted(pool.classes_of(pool.indices)))}
  cells = [
    (row, place)
    for row, group in enumerate(groups)
    for index in group
    for place in (*{column[name] for name in pool.classes[index]}, len(column))
  ]
  rows, columns = np.array(cells).T
  return scipy.sparse.csr_array((np.ones(len(cells)), (rows, columns)), (len(groups), len(column) + 1))


def _wanted(pool, total):
  """Returns ([split, .., "train"], float [splits, classes + 1]: what each of them should get)."""
  wanted, rest = [], total
  for fraction in pool.fractions.values():
    wanted.append(fraction * rest)
    rest = rest - wanted[-1]
  return [*pool.fractions, "train"], np.array([*wanted, rest])


def _stratified(units, wanted):
  """Returns int [units], the row of `wanted` (float [splits, classes + 1]) that each unit goes to; uses `wanted` up."""
  place = np.full(len(units), -1)
  # How many units without a place have each class.
  left = np.array([len(holders) for holders in units.holders[:-1]])
  while np.any(place < 0):
    of_class = np.where(left > 0, left, len(units) + 1)
    column = int(of_class.argmin()) if np.any(left > 0) else -1
    holders = units.holders[column]
    for unit in holders[place[holders] < 0]:
      columns, row = units.rows[unit]
      want = wanted[:, column]
      best = np.flatnonzero(want == want.max())
      place[unit] = best[wanted[best, -1].argmax()]
      wanted[place[unit], columns] -= row
      left[columns[:-1]] -= 1
  return place


def _refined(units, place, wanted):
  """Returns `place` after single moves that bring the splits nearer to `wanted`, as long as there are any, three times.

  The distance is the sum of (wanted - got)**2 / wanted over splits and classes, as in a chi-square test.
  """
  missing = wanted - units.sums(place, len(wanted))
  scale = 1 / np.maximum(wanted, 1)
  for _ in range(3):
    moved = False
    for unit, (columns, row) in enumerate(units.rows):
      here, lacks, weights = place[unit], missing[:, columns], scale[:, columns]
      gain = (((lacks[here] + row) ** 2 - lacks[here] ** 2) * weights[here]).sum()
      change = (((lacks - row) ** 2 - lacks**2) * weights).sum(axis=1) + gain
      change[here] = 0
      best = int(change.argmin())
      if change[best] < -1e-9:
        missing[here, columns] += row
        missing[best, columns] -= row
        place[unit], moved = best, True
    if not moved:
      break
  return place


def _every_class_everywhere(units, place, num_splits, fixed):
  """Moves single units: first each class into train (the last split), then, where train keeps it, into the others."""
  train, have = num_splits - 1, units.sums(place, num_splits)
  have[train] += fixed

  def move(holders, split):
    unit = holders[units.sizes[holders].argmin()]
    columns, row = units.rows[unit]
    have[place[unit], columns] -= row
    have[split, columns] += row
    place[unit] = split

  def may_leave_train(unit):
    columns, row = units.rows[unit]
    return place[unit] == train and np.all(have[train, columns] > row) and units.sizes[unit] <= have[train, -1] / 2

  for column, holders in enumerate(units.holders):
    if have[train, column] == 0 and len(holders):
      move(holders, train)
  for split in range(train):
    for column, holders in enumerate(units.holders):
      movable = [] if have[split, column] else [unit for unit in holders if may_leave_train(unit)]
      if movable:
        move(np.array(movable), split)


def by_time(pool: Pool, times: np.ndarray, written: np.ndarray, flag: str) -> tuple[dict[str, np.ndarray], list[str]]:
  """Samples the latest units, cut where the time changes.

  A unit is as late as its latest example, so that no example in train is later than a sampled one.

  Args:
    pool: `Pool`.
    times: float [n].
    written: object [n] of str, the times as the user wrote them.
    flag: "--time_column=NAME", for messages.

  Returns:
    ({split: its positions}, notes for the user).

  Raises:
    UserError: too few different times.
  """
  members = {unit: group for unit, group in pool.members().items() if unit not in pool.given}
  at_time = collections.defaultdict(list)
  for group in members.values():
    at_time[max(times[group])] += group
  moments = sorted(at_time, reverse=True)
  if len(moments) < len(pool.fractions) + 1:
    raise UserError(
      f"{flag} has {number_of(len(moments), 'different time')} among the examples to sample from: "
      f"{len(pool.fractions) + 1} or more are needed to sample {' and '.join(pool.fractions)}"
    )
  rest, notes, sampled = len(pool.indices), [], {}
  for position, (split, fraction) in enumerate(pool.fractions.items()):
    most = len(moments) - (len(pool.fractions) - position)
    sizes = np.cumsum([len(at_time[moment]) for moment in moments[:most]])
    number = int(np.abs(sizes - fraction * rest).argmin()) + 1
    chosen = [index for moment in moments[:number] for index in at_time[moment]]
    sampled[split] = np.sort(chosen)
    first = min((i for i in chosen if times[i] >= moments[number - 1]), key=lambda i: (times[i], written[i]))
    notes.append(f"{split}: the latest {len(chosen):,} of {rest:,} examples by {flag}, from {written[first]} on")
    moments, rest = moments[number:], rest - len(chosen)
  return sampled, notes


def instants(written: np.ndarray, ids: np.ndarray, flag: str) -> np.ndarray:
  """Returns float [n]: numbers as they are, ISO dates as seconds since 1970; without a zone they count as UTC.

  Args:
    written: object [n] of str: all numbers, or all ISO dates.
    ids: object [n] of str, for the message.
    flag: "--time_column=NAME".

  Raises:
    UserError: a time that is neither, or both kinds.
  """
  read = _number if _is_number(written[0]) else _seconds
  times = np.empty(len(written))
  for place, text in enumerate(written):
    try:
      times[place] = read(text)
    except (ValueError, OverflowError):
      kind = "a number, as the first one is" if read is _number else "an ISO date such as 2024-05-31"
      raise UserError(f"{flag}: {ids[place]} has {text[:40]!r}, which is not {kind}") from None
  return times


def _is_number(text):
  try:
    _number(text)
  except ValueError:
    return False
  return True


def _number(text):
  value = float(text)
  if not math.isfinite(value):
    raise ValueError
  return value


def _seconds(text):
  value = datetime.datetime.fromisoformat(text.strip())
  return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
