"""Folds for cross-validation over the training and validation examples."""

import collections

import numpy as np

from tl_app.data.splitting import duplicates, sampling
from tl_app.data.splitting.splits import Splits

# Fold of an example that is in the training part of every fold.
NEVER_HELD_OUT = -1
# Why there are fewer than two folds.
TOO_FEW = "the examples of no class can be divided: each has one different example"
# Number of folds, where nothing else is asked for.
FOLDS = 5


def held_out(split: Splits, indices: np.ndarray, seed: int, count: int = FOLDS) -> list[np.ndarray]:
  """Returns the held-out positions in `indices` of each fold that holds any, see `make`.

  Args:
    split, indices, seed, count: as of `make`.
  """
  fold_of = make(split, indices, count, seed)
  return [np.flatnonzero(fold_of == fold) for fold in np.unique(fold_of[fold_of >= 0])]


def make(split: Splits, indices: np.ndarray, count: int, seed: int) -> np.ndarray:
  """Returns the fold of each example, int [n], 0 to count - 1, or `NEVER_HELD_OUT`.

  The examples of a class are spread evenly. As in the splits, equal and nearly equal contents stay together, whatever
  their labels, and so do the groups of --group_column. The training part of each fold has every class: an example whose
  class has no other in another fold is never held out.

  Args:
    split: the `Splits`, with fingerprints.
    indices: int [n], positions in `split.examples`.
    count: number of folds.
    seed: of the order in which the contents are dealt.
  """
  assert split.fingerprints is not None
  examples, units = split.examples, split.fingerprints.near
  if examples.groups is not None:
    units = duplicates.joined(units, duplicates.numbered(examples.groups))
  fold_of = np.full(len(indices), NEVER_HELD_OUT)
  sizes = np.zeros(count, np.int64)
  for members in _strata(examples, units, indices, seed):
    of_class = np.zeros(count, np.int64)
    for unit in members if len(members) > 1 else ():
      fold = int(np.lexsort((sizes, of_class))[0])
      fold_of[unit] = fold
      of_class[fold] += len(unit)
      sizes[fold] += len(unit)
  return _with_every_class(examples.classes[indices], fold_of, units[indices], count)


def _strata(examples, units, indices, seed):
  """Yields the units of each class as lists of positions in `indices`, the rarest class first; a unit is in one list.

  A unit belongs to the rarest of its classes.
  """
  members = collections.defaultdict(list)
  for position, index in enumerate(indices):
    members[units[index]].append(position)
  classes = {
    unit: {name for i in group for name in examples.classes[indices[i]]} or {""} for unit, group in members.items()
  }
  number = collections.Counter(name for names in classes.values() for name in names)
  strata = collections.defaultdict(list)
  first = {unit: min(sampling.order(seed, examples.hashes[indices[i]]) for i in members[unit]) for unit in members}
  for unit in sorted(members, key=first.get):
    strata[min(classes[unit], key=lambda name: (number[name], name))].append(members[unit])
  return [strata[name] for name in sorted(strata, key=lambda name: (number[name], name))]


def _with_every_class(classes, fold_of, units, count):
  """Returns the folds without the units of examples whose class would be missing in the training part of their fold."""
  total = collections.Counter(name for names in classes for name in names)
  for fold in range(count):
    inside = np.flatnonzero(fold_of == fold)
    held = collections.Counter(name for names in classes[inside] for name in names)
    missing = {name for name in held if held[name] == total[name]}
    if missing:
      lacking = [position for position in inside if missing & set(classes[position])]
      fold_of[np.isin(units, units[lacking])] = NEVER_HELD_OUT
  return fold_of
