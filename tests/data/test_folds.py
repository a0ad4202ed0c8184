"""Tests of the folds of cross-validation."""

import dataclasses

import numpy as np
import pytest

from tl_app.data.examples import Examples, Inputs, strings
from tl_app.data.splitting import folds
from tl_app.data.splitting.fingerprints import Fingerprints
from tl_app.data.splitting.splits import Splits


def _split(labels, units=None, groups=None):
  """Returns the `Splits` of examples with label cells such as "a" or "a,b"; `units` tells which contents are equal."""
  numbers = np.arange(len(labels))
  ids = strings(str(number) for number in numbers)
  classes = strings([tuple(label.split(",")) for label in labels])
  texts = Inputs.of("text", ids)
  examples = Examples(ids, texts, strings(labels), ids, ids, skipped=[], source="texts")
  examples = dataclasses.replace(examples, classes=classes, groups=None if groups is None else strings(groups))
  near = Fingerprints(numbers, {})
  # A cached property.
  near.__dict__["near"] = numbers if units is None else np.asarray(units)
  none = np.zeros(0, np.int64)
  return Splits(examples, numbers, none, none, notes=[], settings={}, fingerprints=near)


def _folds(split, count=5, seed=0):
  return folds.make(split, np.arange(len(split.examples)), count, seed)


def test_each_class_is_spread_evenly():
  labels = ["a"] * 40 + ["b"] * 15 + ["c"] * 7
  fold_of = _folds(_split(labels))
  assert set(fold_of) == set(range(5))
  for name in "abc":
    counts = np.bincount(fold_of[np.array(labels) == name], minlength=5)
    assert counts.max() - counts.min() <= 1
  assert np.ptp(np.bincount(fold_of)) <= 2
  assert (fold_of == _folds(_split(labels))).all() and (fold_of != _folds(_split(labels), seed=1)).any()


@pytest.mark.parametrize("kind", ["units", "groups"])
def test_what_belongs_together_is_in_one_fold(kind):
  together = [number // 3 for number in range(60)]
  fold_of = _folds(_split(["ab"[number % 2] for number in range(60)], **{kind: list(map(str, together))[:60]}))
  for unit in range(20):
    assert len(set(fold_of[3 * unit : 3 * unit + 3])) == 1


def test_the_training_part_of_each_fold_has_every_class():
  labels = [*"aaaaaaaabbbbbb", "c", "c", "d", "b,e", "a,e"]
  units = [*range(14), 14, 14, 15, 16, 17]
  fold_of = _folds(_split(labels, units=units))
  # The two of c are one content, and d has one example.
  assert (fold_of[14:17] == folds.NEVER_HELD_OUT).all()
  for fold in range(5):
    left = {name for label, number in zip(labels, fold_of) if number != fold for name in label.split(",")}
    assert left == set("abcde")
  assert (_folds(_split([*"abcde"])) == folds.NEVER_HELD_OUT).all()


def test_a_group_that_cannot_be_held_out_whole_is_never_held_out():
  labels, groups = ["a", "c", "a", "b", "c", "b", "d", "d"], [1, 1, 2, 3, 3, 4, 5, 6]
  split = _split(labels, groups=list(map(str, groups)))
  for seed in range(10):
    fold_of = _folds(split, count=2, seed=seed)
    # Both of c may be in one fold.
    assert all(len({fold for fold, name in zip(fold_of, groups) if name == group}) == 1 for group in groups)
