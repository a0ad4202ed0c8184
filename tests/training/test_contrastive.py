"""The supervised contrastive recipe: its loss, its batches, its phases, and a whole run."""

import collections
import dataclasses
import json

import numpy as np
import pytest
import tiny_presets

from tl_app import files
from tl_app.commands import train
from tl_app.config import Config, validate
from tl_app.data.splitting import folds
from tl_app.errors import UserError
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.tasks import solvers
from tl_app.training import contrastive


def _reference(labels, features):
  """Equation 2 of Khosla et al. 2020, term by term; of each anchor."""
  losses = []
  for i in range(len(labels)):
    others = [j for j in range(len(labels)) if j != i]
    below = sum(np.exp(features[i] @ features[j] / contrastive.TEMPERATURE) for j in others)
    same = [j for j in others if labels[j] == labels[i]]
    terms = [np.log(np.exp(features[i] @ features[j] / contrastive.TEMPERATURE) / below) for j in same]
    losses.append(-np.mean(terms) if terms else 0.0)
  return np.array(losses)


def test_the_loss_is_that_of_the_paper():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(7, 5))
  features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
  labels = np.array([0, 1, 0, 2, 1, 0, 3])  # 2 and 3 are alone
  loss = contrastive.SupervisedContrastiveLoss()
  np.testing.assert_allclose(loss.call(labels, features), _reference(labels, features), rtol=1e-5)
  assert float(loss(labels[:, None], features)) == pytest.approx(_reference(labels, features).mean(), rel=1e-5)
  apart = np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]
  assert float(loss(np.array([0, 0, 1, 1]), apart)) < 1e-3 < float(loss(np.array([0, 1, 0, 1]), apart))


def test_batches_hold_equally_many_examples_of_each_class_and_all_come_in_turn():
  labels = np.repeat(np.arange(5), [8, 4, 4, 1, 7])
  rows = list(contrastive.batches(labels, classes=2, examples_per_class=4, steps=5, seed=0).take(5).as_numpy_iterator())
  counts = collections.Counter()
  for row in rows:
    assert sorted(collections.Counter(labels[row]).values()) == [4, 4]
    counts.update(set(labels[row]))
  # Each batch holds two classes: in five batches each class comes twice, and class 0 with all of its 8 examples.
  assert set(counts.values()) == {2}
  assert sorted(i for row in rows for i in row if labels[i] == 0) == list(range(8))
  again = list(contrastive.batches(labels, 2, 4, 5, seed=0).take(10).as_numpy_iterator())
  np.testing.assert_array_equal(again[:5], rows)
  np.testing.assert_array_equal(again[5:], rows)
  other = list(contrastive.batches(labels, 2, 4, 5, seed=1).take(5).as_numpy_iterator())
  assert not np.array_equal(other, rows)


@pytest.mark.parametrize(("count", "classes"), [(3, 2), (5, 4), (77, 16), (4, 4)])
def test_no_batch_holds_a_class_twice(count, classes):
  labels = np.repeat(np.arange(count), 6)
  rows = contrastive.batches(labels, classes, examples_per_class=2, steps=60, seed=0).take(60).as_numpy_iterator()
  assert all(len(set(labels[row])) == classes for row in rows)


def test_no_batch_holds_an_example_twice_if_its_class_has_enough():
  labels = np.repeat(np.arange(4), [10, 5, 4, 3])
  for row in (
    contrastive.batches(labels, classes=4, examples_per_class=4, steps=60, seed=0).take(60).as_numpy_iterator()
  ):
    counts = [sorted(collections.Counter(row[labels[row] == name]).values()) for name in range(4)]
    assert counts == [[1] * 4, [1] * 4, [1] * 4, [1, 1, 2]]


@pytest.mark.parametrize(
  ("num_train", "num_classes", "batch_size", "expected"),
  [
    (770, 77, 32, (16, 64, 13, 5)),
    (20, 2, 32, (2, 20, 1, 20)),
    (9000, 3, 32, (3, 63, 143, 1)),
    (30, 9, 1, (2, 4, 8, 8)),
  ],
)
def test_phases_scale_with_the_data(num_train, num_classes, batch_size, expected):
  facts = Facts(num_train, num_classes, 1e-4, {"embeddings": ("e/table",), "layer_0": ("a/kernel",)})
  config = Config(recipe="contrastive", batch_size=batch_size)
  probe, phase, refit = recipes.plan(config, facts)
  schedule = phase.schedule
  found = phase.objective.batch_classes, phase.inputs.batch_size, schedule.steps_per_epoch, schedule.epochs
  assert found == expected
  assert phase.trains.train_stages == ("embeddings", "layer_0")
  assert probe.trains.train_stages == refit.trains.train_stages == ("head",)
  assert refit.inputs.recompute_features
  assert recipes.plan(dataclasses.replace(config, train_stages="none"), facts) == [probe]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  return Config(
    **tiny_presets.reviews_run(tmp_path_factory.mktemp("contrastive")),
    recipe="contrastive",
    train_stages="top:1",
    learning_rate=3e-3,
    epochs=6,
    probe_solver="logistic",
    refit="never",
  )


@pytest.mark.slow
def test_a_run_exports_what_it_evaluates(config, tmp_path):
  metrics = train.train_and_evaluate(config, tmp_path / "run")
  assert set(metrics["candidates"]) == {"majority_class", "nearest_neighbours", "tf_idf", "probe", "fine_tuned"}
  assert metrics["parity"]["label_flips"] == 0
  log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
  losses = [record["loss"] for record in log if record["phase"] == "contrastive"]
  assert len(losses) == 6
  assert losses[-1] < losses[0]
  phases = files.read_json(tmp_path / "run" / "plan.json")["phases"]
  assert [phase["objective"] for phase in phases] == ["task_loss", "supervised_contrastive", "task_loss"]
  stages = {row["name"]: row["trainable"] for row in phases[1]["stages"]}
  assert stages["head"] == stages["embeddings"] == 0


@pytest.mark.slow
def test_folds_judge_it_and_choose_the_strength_of_the_last_head(config, tmp_path, monkeypatch):
  monkeypatch.setattr(folds.held_out, "__defaults__", (2,))
  flags = dataclasses.replace(config, refit="always", select="fine_tuned", export=False, epochs=2)
  metrics = train.train_and_evaluate(flags, tmp_path / "run")
  plan = files.read_json(tmp_path / "run/plan.json")
  assert metrics["selected_candidate"] == "fine_tuned" and metrics["validation"]["estimate"] == "cross_validation"
  assert plan["cross_validation"]["folds"] == metrics["validation"]["folds"] == 2
  answers = files.read_json(tmp_path / "run/splits.json")["splits"]
  assert metrics["validation"]["num_examples"] == sum(len(answers[name]["ids"]) for name in ("train", "validation"))
  log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
  assert [record["phase"] for record in log].count("contrastive") == 2
  assert plan["phases"][2]["strength"] in solvers.STRENGTHS


@pytest.mark.parametrize("name", ["mixup", "cutmix", "label_smoothing"])
def test_flags_of_another_loss_are_refused(config, name):
  with pytest.raises(UserError, match=f"--{name}=0.1 does nothing with --recipe=contrastive"):
    validate(dataclasses.replace(config, workdir="run", **{name: 0.1}))


@pytest.mark.slow
def test_several_labels_are_refused(config, tmp_path):
  with pytest.raises(UserError, match="one class per example"):
    train.train_and_evaluate(dataclasses.replace(config, export=False, task="multi_label"), tmp_path / "run")
