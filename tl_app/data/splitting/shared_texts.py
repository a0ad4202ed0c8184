"""Pairs of texts that have a text in common: they stay in one split where enough independent groups are left.

Pairs with a common text are not independent examples: a model can answer the second one from what it learned of the
first. A pair set is a graph of its texts, and its connected components are groups that have no text in common.
"""

import dataclasses

import numpy as np

from tl_app.data.splitting import duplicates, sampling
from tl_app.data.splitting.fingerprints import Fingerprints

# Enough groups are left if each sampled split has MIN_GROUPS of them, and MIN_SIZE of the pairs that it should have.
# Measured on generated pairs of three classes: 2,400 pairs of 4 to 500 queries, equally frequent or by Zipf's law, and
# 2,500 pairs of texts drawn from 300 to 4,000. With 4 or more groups the sizes were 0.86 to 1.03 of those wanted, and
# the class shares within 5 percentage points in test, 9 in validation. With 1 or 2 groups a split was up to 3 times
# too large; where nearly all pairs hang together (from 91 % on), it was below a third of its size or lacked classes.
MIN_GROUPS = 4
MIN_SIZE = 0.8
# Groups up to this share of the smallest split are as frequent in every split as in all the data.
_MAX_SHARE = 0.1


def sample(pool: sampling.Pool, fingerprints: Fingerprints, plain: dict) -> tuple[dict, list[str]] | None:
  """Samples splits that have no text in common with train: in any column, or else in one column.

  Args:
    pool: `sampling.Pool`, whose units are what stays together anyway.
    fingerprints: `Fingerprints` of the examples.
    plain: {split: its positions} that sampling gives without regard to common texts.

  Returns:
    ({split: its positions}, notes for the user); None if no two units have a text in common, or if they leave too few
    groups.
  """
  numbers = fingerprints.text_numbers
  if len(numbers) < 2:
    return None
  # One column alone: first the one with more different texts, which leaves more groups.
  single = sorted(numbers, key=lambda name: -len(np.unique(numbers[name][pool.indices])))
  for names in (tuple(numbers), *((name,) for name in single)):
    units = _joined(pool, [numbers[name] for name in names])
    groups, sizes = np.unique(units[pool.indices], return_counts=True)
    if len(groups) == len(np.unique(pool.units[pool.indices])):
      continue
    given = frozenset(np.delete(units, pool.indices))
    sampled, _ = sampling.by_group(_with_sizes(dataclasses.replace(pool, units=units, given=given)))
    if _is_enough(pool, units, sampled, plain):
      where = "" if len(names) > 1 else f" in the column --{names[0]}_column"
      note = (
        f"pairs with a text in common{where} stay in one split: {len(groups):,} groups of {len(pool.indices):,} pairs"
      )
      return sampled, [f"{note}, the largest has {sizes.max():,}"]
  return None


def _joined(pool, columns):
  """Returns int64 [n]: the units of `pool`, joined wherever two of its examples have one of the texts in common."""
  texts = np.concatenate([numbers[pool.indices] for numbers in columns])
  owners = np.tile(pool.indices, len(columns))
  _, first, inverse = np.unique(texts, return_index=True, return_inverse=True)
  return duplicates.connected(pool.units, np.stack([owners, owners[first[inverse]]], axis=1))


def _with_sizes(pool):
  """Returns `pool` with the size of small groups as one more class: else the sampled splits have single pairs only."""
  _, number, size = np.unique(pool.units[pool.indices], return_inverse=True, return_counts=True)
  smallest = min(pool.wanted().values())
  classes = pool.classes.copy()
  for index, members in zip(pool.indices, size[number]):
    if members <= _MAX_SHARE * smallest:
      # Sizes from one power of two to the next count as one. No label begins with a null character.
      classes[index] = (*classes[index], f"\0size {int(members).bit_length()}")
  return dataclasses.replace(pool, classes=classes)


def _is_enough(pool, units, sampled, plain):
  """Returns whether the `sampled` splits have enough groups and examples, and all the classes of the `plain` ones."""
  return all(
    len(np.unique(units[sampled[split]])) >= MIN_GROUPS
    and MIN_SIZE * wanted <= len(sampled[split]) <= wanted / MIN_SIZE
    and pool.classes_of(sampled[split]) >= pool.classes_of(plain[split])
    for split, wanted in pool.wanted().items()
  )


def shared(fingerprints: Fingerprints, left: np.ndarray, right: np.ndarray) -> dict[str, list[tuple[int, int]]]:
  """Returns {column: [(i, j)]} of each pair i of `left` whose text in this column is in a pair of `right`, first in j.

  Pairs that equal or nearly equal one of `right` in both texts do not count. Without pairs of texts it is empty.
  """
  columns = fingerprints.text_numbers
  if len(columns) < 2:
    return {}
  first, equal = {}, set(fingerprints.near[right])
  for numbers in columns.values():
    for index in right:
      first.setdefault(numbers[index], index)
  rest = [index for index in left if fingerprints.near[index] not in equal]
  return {
    name: [(index, first[numbers[index]]) for index in rest if numbers[index] in first]
    for name, numbers in columns.items()
  }
