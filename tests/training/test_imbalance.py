"""Rare classes: the losses are the published ones, classes are sampled evenly, and macro F1 selects the model."""

import itertools
import re

import numpy as np
import pytest
import scipy.special
import tiny_data
import tiny_modules

from tl_app import config as config_lib
from tl_app import files, tasks
from tl_app.commands import train
from tl_app.config import Config
from tl_app.data import pipeline
from tl_app.data.examples import Examples, Inputs, strings
from tl_app.errors import UserError
from tl_app.report import summary
from tl_app.tasks import IMBALANCED, SINGLE_LABEL, losses, statistics
from tl_app.training import selection

COUNTS = np.array([900, 90, 10])
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(7, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0], np.int32)


def test_class_weights_follow_the_effective_number():
  weights = losses.effective_weights(COUNTS)
  effective = [sum(0.999**k for k in range(n)) for n in COUNTS]
  np.testing.assert_allclose(weights / weights[0], effective[0] / np.array(effective), rtol=1e-5)
  assert np.sum(weights * COUNTS) / COUNTS.sum() == pytest.approx(1)


def _softmax_terms(imbalance):
  """Returns float64 [7, 3]: by hand, the loss of each example if it were of each class."""
  logits = np.float64(LOGITS)
  if imbalance == "logit_adjustment":
    logits = logits + np.log(COUNTS / 1000)
  log_p = statistics.log_softmax(logits)
  if imbalance == "focal":
    return -((1 - np.exp(log_p)) ** 2) * log_p
  return -log_p * (losses.effective_weights(COUNTS) if imbalance == "class_weights" else 1.0)


@pytest.mark.parametrize("imbalance", ["none", "class_weights", "focal", "logit_adjustment"])
def test_softmax_losses_are_those_of_the_papers(imbalance):
  terms = _softmax_terms(imbalance)
  loss = losses.softmax(COUNTS, 0.0, imbalance)
  np.testing.assert_allclose(loss(LABELS, LOGITS), terms[np.arange(7), LABELS], rtol=1e-4)
  one_hot = np.eye(3, dtype=np.float32)[LABELS]
  np.testing.assert_allclose(loss(one_hot, LOGITS), loss(LABELS, LOGITS), rtol=1e-6)
  if imbalance != "class_weights":
    mixed = 0.3 * one_hot + 0.7 * one_hot[::-1]
    np.testing.assert_allclose(loss(mixed, LOGITS), (mixed * terms).sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize("imbalance", ["none", "class_weights", "focal"])
def test_sigmoid_losses_are_those_of_the_papers(imbalance):
  targets = RNG.integers(0, 2, (7, 3)).astype(np.float32)
  p = scipy.special.expit(np.float64(LOGITS))
  own = np.where(targets == 1, p, 1 - p)
  weights = np.ones_like(own)
  if imbalance == "class_weights":
    sides = [losses.effective_weights([1000 - n, n]) for n in COUNTS]
    weights = np.stack([np.array(side)[targets[:, c].astype(int)] for c, side in enumerate(sides)], axis=1)
    assert sides[2][1] > 10 * sides[2][0]
  terms = -weights * np.log(own) * ((1 - own) ** 2 if imbalance == "focal" else 1)
  loss = losses.sigmoid(COUNTS, 1000, 0.0, imbalance)
  assert np.mean(loss(targets, LOGITS)) == pytest.approx(terms.mean(), rel=1e-4)


def test_hits_read_plain_and_mixed_targets():
  hits = np.array(losses.hits(LABELS, LOGITS))
  np.testing.assert_array_equal(hits, LOGITS.argmax(axis=1) == LABELS)
  one_hot = np.eye(3, dtype=np.float32)[LABELS]
  np.testing.assert_array_equal(losses.hits(0.6 * one_hot + 0.4 * one_hot[::-1], LOGITS), hits)


CLASSES = np.repeat([0, 1, 2], [40, 6, 2]).astype(np.int32)


def _stream(batches, seed=1, lengths=None):
  dataset = pipeline.index_batches(48, 6, seed, lengths, CLASSES)
  return [batch.numpy().tolist() for batch in itertools.islice(dataset, batches)]


def test_balanced_sampling_takes_each_class_and_each_of_its_examples_equally_often():
  batches = _stream(60)
  assert all(np.bincount(CLASSES[batch]).tolist() == [2, 2, 2] for batch in batches)
  counts = np.bincount(sum(batches, []), minlength=48)
  assert set(counts[:40]) == {3} and set(counts[40:46]) == {20} and set(counts[46:]) == {60}
  assert batches == _stream(60) and batches[:5] != _stream(5, seed=2)
  assert batches[0] != batches[20]


def test_balanced_sampling_goes_together_with_batches_of_similar_length():
  lengths = np.random.default_rng(0).integers(5, 60, 48)
  batches = _stream(40, lengths=lengths)
  assert np.bincount(CLASSES[sum(batches, [])]).tolist() == [80, 80, 80]
  spread = [np.ptp(lengths[batch]) for batch in batches]
  assert np.mean(spread) < np.mean([np.ptp(lengths[batch]) for batch in _stream(40)])


def test_macro_f1_selects_the_model_in_place_of_accuracy():
  targets = np.repeat([0, 1], [180, 20])
  common = np.tile([2.0, -2.0], (200, 1))
  rare = np.where(targets[:, None] == [0, 1], 2.0, -2.0)
  rare[:40] = [-2.0, 2.0]
  candidates = [
    selection.Candidate("probe", common, [], "probe"),
    selection.Candidate("fine_tuned", rare, [], "fine_tune"),
  ]
  for task, best in (
    (SINGLE_LABEL.with_codec(names=("a", "b")), "probe"),
    (IMBALANCED.with_codec(names=("a", "b")), "fine_tuned"),
  ):
    assert selection.select(candidates, targets, task).best.name == best
    assert selection.better(candidates, targets, task).name == best
  task = IMBALANCED.with_codec(names=("a", "b"))
  metrics = task.metrics.monitor_metrics(rare, targets)
  assert metrics["accuracy"] == pytest.approx(0.8)
  assert metrics["macro_f1"] == pytest.approx(task.metrics.compute_metrics(rare, targets)["macro_f1"], abs=1e-6)
  assert metrics["loss"] == pytest.approx((np.mean(_entropies(rare[:180], 0)) + _entropies(rare[180:], 1).mean()) / 2)
  assert task.metrics.compute_metrics(rare, targets)["balanced_accuracy"] == pytest.approx((14 / 18 + 1) / 2)
  assert 0 < task.metrics.p_value(common, rare, targets) < 1


def _entropies(logits, label):
  return -statistics.log_softmax(logits)[:, label]


@pytest.mark.parametrize(
  ("flags", "labels", "message"),
  [
    ({"imbalance": "balanced"}, ["a,b", "b", "a"], "does not fit --task=multi_label: use class_weights, focal"),
    (
      {"task": "regression", "imbalance": "focal"},
      ["1.5", "2.5", "3.25"],
      "--imbalance=focal does not fit --task=regression: remove the flag",
    ),
    ({"task": "regression", "mixup": 0.2}, ["1.5", "2.5", "3.25"], "--mixup=0.2 does nothing for --task=regression"),
  ],
)
def test_flags_that_do_not_fit_the_task_are_refused(flags, labels, message):
  cells = strings(labels)
  examples = Examples(cells, Inputs.of("text", cells), cells, cells, cells, skipped=[], source="texts")
  with pytest.raises(UserError, match=re.escape(message)):
    tasks.choose(Config(**flags), examples)


def test_scikit_learn_solvers_are_refused():
  with pytest.raises(UserError, match="--imbalance=focal needs --probe_solver=adamw, not svm"):
    config_lib.validate(Config(workdir="w", backbone="b", dataset="d", imbalance="focal", probe_solver="svm"))


@pytest.mark.slow
def test_a_run_names_the_metric_that_selected_the_model(tmp_path):
  config = Config(
    backbone=tiny_modules.image(tmp_path / "image"),
    dataset="images:" + tiny_data.colours(tmp_path / "colours", per_class=12),
    image_size=16,
    feature_cache="off",
    recipe="probe",
    imbalance="balanced",
    head_epochs=4,
    export=False,
  )
  metrics = train.train_and_evaluate(config, tmp_path / "run")
  assert (metrics["task"], metrics["primary_metric"]) == ("single_label", "macro_f1")
  assert tasks.of_metrics(metrics) is IMBALANCED and tasks.of_metrics({"task": "single_label"}) is SINGLE_LABEL
  recalls = [row["recall"] for row in metrics["test"]["per_class"].values()]
  assert metrics["test"]["balanced_accuracy"] == pytest.approx(np.mean(recalls))
  assert metrics["candidates"]["probe"].keys() >= {"macro_f1", "accuracy", "loss"}
  lines = summary.lines(metrics).splitlines()
  assert lines[0].startswith("test macro F1") and "macro F1 of the majority class" in lines[1]
  assert any(line.startswith("mean recall") for line in lines)
  assert "imbalance" in (tmp_path / "run" / "report.html").read_text()
  assert files.read_json(tmp_path / "run" / "plan.json")["phases"][0]["imbalance"] == "balanced"
