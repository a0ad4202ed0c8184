"""Tests of cross-validation of the probe, and of its fit on training and validation examples together."""

import types

import numpy as np
import pytest

from tl_app.config import Config
from tl_app.data.splitting import folds
from tl_app.errors import UserError
from tl_app.features.rows import FeatureRows
from tl_app.tasks import REGRESSION, SINGLE_LABEL
from tl_app.training import refit

TASK = SINGLE_LABEL.with_codec(names=("a", "b"))


def _features(monkeypatch, size, task=TASK, sampled=("test", "validation"), fold_of=None):
  """Returns `Features` with `size` validation examples of class 0, whose examples have the folds `fold_of`."""
  found = np.arange(2 * size) % folds.FOLDS if fold_of is None else fold_of
  monkeypatch.setattr(folds, "make", lambda *_: found)
  data = types.SimpleNamespace(
    train=np.arange(size),
    validation=np.arange(size),
    validation_targets=np.zeros(size, int),
    split=types.SimpleNamespace(settings={"sampled": sampled, "split_seed": 0}),
  )
  backbone = types.SimpleNamespace(feature_size=4)
  model = types.SimpleNamespace(task=task, backbone=backbone)
  return types.SimpleNamespace(data=data, model=model, frozen=lambda: FeatureRows(np.zeros((2 * size, 4))))


def _logits(size, wrong):
  right = np.arange(size) >= wrong
  return np.stack([right, ~right], axis=1).astype(float)


@pytest.mark.parametrize(("size", "wrong", "taken"), [(60, 4, True), (1000, 59, True), (1000, 60, False)])
def test_the_folds_are_taken_where_the_probe_makes_too_few_errors(monkeypatch, size, wrong, taken):
  decided = refit.decide(Config(), _features(monkeypatch, size), _logits(size, wrong))
  assert decided.folds == (folds.FOLDS if taken else 0)
  assert f"the probe answers {wrong} of {size:,} validation examples wrong" in decided.reason


def test_examples_count_where_there_are_no_right_answers(monkeypatch):
  for size, taken in ((59, True), (60, False)):
    decided = refit.decide(Config(), _features(monkeypatch, size, REGRESSION), np.zeros((size, 1)))
    assert bool(decided.folds) == taken


@pytest.mark.parametrize(
  ("flags", "sampled", "reason"),
  [
    ({"refit": "never"}, None, "--refit=never"),
    ({"max_examples_per_class": 10}, None, "--max_examples_per_class limits"),
    ({"max_examples": 10}, None, "--max_examples limits"),
    ({"time_column": "when"}, None, "later than"),
    ({"adapt": "coral"}, None, "--adapt=coral"),
    ({}, ("test",), "the validation split was given"),
  ],
)
def test_what_keeps_the_validation_split_out(monkeypatch, flags, sampled, reason):
  features = _features(monkeypatch, 20, sampled=sampled or ("test", "validation"))
  decided = refit.decide(Config(**flags), features, _logits(20, 2))
  assert decided.folds == 0 and reason in decided.reason


def test_classes_of_one_example_have_no_folds(monkeypatch):
  features = _features(monkeypatch, 20, fold_of=np.full(40, folds.NEVER_HELD_OUT))
  assert "of no class can be divided" in refit.decide(Config(), features, _logits(20, 2)).reason
  with pytest.raises(UserError, match="--refit=always: the examples of no class can be divided"):
    refit.decide(Config(refit="always"), features, _logits(20, 2))
