"""Labels that follow costs or precisions: in NumPy, in the graph and in the metrics."""

import json

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tl_app import tasks
from tl_app.config.groups import AnswerConfig
from tl_app.errors import UserError
from tl_app.tasks import decisions, selective

NAMES = ("ham", "offer", "spam")
COSTS = ",spam,ham,offer,reject\nham,10,0,1,0.4\nspam,0,1,1,0.4\noffer,2,1,0,0.4\n"


@pytest.fixture
def data():
  """(logits, classes drawn from their probabilities), 1,500 examples."""
  rng = np.random.default_rng(0)
  logits = rng.normal(scale=2.5, size=(1500, 3)).astype(np.float32)
  targets = np.array([rng.choice(3, p=row) for row in scipy.special.softmax(np.float64(logits), axis=1)])
  return logits, targets


@pytest.fixture
def costs(tmp_path):
  def write(text=COSTS):
    (tmp_path / "costs.csv").write_text(text)
    return str(tmp_path / "costs.csv")

  return write


def fitted(data, config):
  task = tasks.SINGLE_LABEL.fit(NAMES).decide(config).calibrate(*data, config)
  assert tasks.from_config(json.loads(json.dumps(task.get_config()))) == task
  return task


def served(task, logits):
  found = {name: value.numpy() for name, value in task.answers.signature_outputs(tf.constant(logits), []).items()}
  return {name: v.astype(str) if v.dtype == object else v for name, v in found.items()}


def test_the_label_has_the_lowest_expected_cost(data, costs):
  task = fitted(data, AnswerConfig(costs=costs()))
  probabilities = task.answers.outputs(data[0])
  table = {"ham": {"ham": 0, "offer": 1, "spam": 10}, "offer": {"ham": 1, "offer": 0, "spam": 2}}
  table["spam"] = {"ham": 1, "offer": 1, "spam": 0}
  expected = [
    {answer: sum(row[i] * table[truth][answer] for i, truth in enumerate(NAMES)) for answer in NAMES}
    for row in probabilities
  ]
  best = [min(row, key=row.get) for row in expected]
  outputs = served(task, data[0])
  assert list(outputs["label"]) == best
  assert (outputs["accept"] == [min(row.values()) <= 0.4 for row in expected]).all()
  np.testing.assert_allclose(
    outputs["score"], probabilities[np.arange(1500), [NAMES.index(b) for b in best]], atol=1e-6
  )
  parity = task.answers.shared_parity(outputs, probabilities)
  assert task.answers.is_shared_equal(parity, 1e-4)
  moved = outputs | {"accept": ~outputs["accept"]}
  assert not task.answers.is_shared_equal(task.answers.shared_parity(moved, probabilities), 1e-4)
  answer = next(task.answers.decode_all(task_bytes(outputs), [b""]))
  assert answer["accept"] is bool(outputs["accept"][0])


def task_bytes(outputs):
  return {name: np.char.encode(v).astype(object) if v.dtype.kind == "U" else v for name, v in outputs.items()}


def test_costs_fall_and_are_measured(data, costs):
  config = AnswerConfig(costs=costs())
  plain, task = fitted(data, AnswerConfig()), fitted(data, config)
  found = task.metrics.compute_metrics(*data)
  assert found["costs"]["mean"] < found["costs"]["most_probable"]
  assert found["costs"]["difference"] == pytest.approx(found["costs"]["mean"] - found["costs"]["most_probable"])
  assert found["costs"]["difference_ci95"][1] < 0
  assert found["accuracy"] < plain.metrics.compute_metrics(*data)["accuracy"]
  assert 0 < found["selective"]["accepted"] < 1 and found["selective"]["error"] < found["selective"]["error_of_all"]
  rows = list(task.answers.rows(["a"] * 1500, [NAMES[t] for t in data[1]], task.answers.outputs(data[0])))
  assert [row[2] for row in rows] == list(served(task, data[0])["label"])
  assert all(row[4] != row[2] for row in rows)


def test_equal_costs_change_nothing(data, costs):
  task = fitted(data, AnswerConfig(costs=costs(",ham,offer,spam\nham,0,1,1\noffer,1,0,1\nspam,1,1,0\n")))
  plain = fitted(data, AnswerConfig())
  assert list(served(task, data[0])["label"]) == list(served(plain, data[0])["label"])
  assert "accept" not in served(task, data[0])
  assert task.metrics.compute_metrics(*data)["costs"]["changed"] == 0


def test_costs_may_be_separated_by_semicolons(costs):
  commas = decisions.read_costs(costs(COSTS))
  assert decisions.read_costs(costs(COSTS.replace(",", ";"))) == commas


@pytest.mark.parametrize(
  ("text", "problem"),
  [
    ("", "has no costs"),
    (",ham,spam\nham,0,1\n", "is not square: 'spam'"),
    (",ham\nham,0\nspam,1\n", "is not square: 'spam'"),
    (",ham,ham\nham,0,1\n", "names 'ham' twice"),
    (",ham,spam\nham,0\nspam,1,0\n", "the row of 'ham' has 1 cost, not 2"),
    (",ham,spam\nham,0,-1\nspam,1,0\n", "the row of 'ham' holds a cost that is no number of 0 or more"),
    (",ham,spam\nham,0,nan\nspam,1,0\n", "the row of 'ham' holds a cost"),
    (",ham,offer\nham,0,1\noffer,1,0\n", "the class 'spam' is missing"),
    (",ham,eggs\nham,0,1\neggs,1,0\n", "there is no class 'eggs'"),
  ],
)
def test_a_wrong_table_of_costs_is_one_line(costs, text, problem):
  with pytest.raises(UserError, match=problem):
    tasks.SINGLE_LABEL.fit(NAMES).decide(AnswerConfig(costs=costs(text)))
  with pytest.raises(UserError, match="cannot be read"):
    decisions.read_costs("nowhere.csv")


@pytest.mark.parametrize("text", ["spam", "spam:2", "spam:x", ":0.9", "spam:0.9,0.5"])
def test_a_wrong_precision_is_one_line(text):
  with pytest.raises(UserError, match="is no class with a precision between 0 and 1"):
    decisions.read_precisions(text)
  with pytest.raises(UserError, match="there is no class 'eggs'"):
    tasks.SINGLE_LABEL.fit(NAMES).decide(AnswerConfig(min_precision="eggs:0.9"))
  # One class must take the examples below all thresholds.
  with pytest.raises(UserError, match="names every class"):
    tasks.SINGLE_LABEL.fit(NAMES).decide(AnswerConfig(min_precision=",".join(f"{name}:0.9" for name in NAMES)))


def test_the_name_of_a_class_may_have_commas_and_colons():
  found = decisions.read_precisions("Health, safety:0.9, mail: reply:0.95,spam: .99")
  assert found == {"Health, safety": 0.9, "mail: reply": 0.95, "spam": 0.99}


def test_a_class_is_answered_only_where_it_has_the_precision(data):
  logits, targets = data
  config = AnswerConfig(min_precision="spam:0.95")
  task = fitted((logits[:1000], targets[:1000]), config)
  found = task.metrics.compute_metrics(logits[:1000], targets[:1000])["min_precision"]
  assert list(found) == ["spam"]
  assert found["spam"]["precision"] >= 0.95 and 0.3 < found["spam"]["recall"] < found["spam"]["recall_without"]
  held = task.metrics.compute_metrics(logits[1000:], targets[1000:])["min_precision"]["spam"]
  assert held["precision_ci95"][1] > 0.95 and held["precision"] > 0.9
  outputs, probabilities = served(task, logits), task.answers.outputs(logits)
  assert (outputs["score"][outputs["label"] == "spam"] >= found["spam"]["threshold"] - 1e-6).all()
  assert task.answers.is_shared_equal(task.answers.shared_parity(outputs, probabilities), 1e-4)
  few = fitted((logits[:15], targets[:15]), config)
  assert few.codec.floors[2] == selective.NEVER and "spam" not in served(few, logits)["label"]
  assert few.metrics.compute_metrics(logits, targets)["min_precision"]["spam"]["precision"] is None


def test_a_class_of_several_has_its_precision(data):
  logits, rng = data[0], np.random.default_rng(1)
  targets = (rng.random(logits.shape) < scipy.special.expit(logits)).astype(np.float32)
  config = AnswerConfig(min_precision="spam:0.95")
  task = tasks.TASKS["multi_label"].with_codec(names=NAMES).decide(config).calibrate(logits, targets, config)
  plain = tasks.TASKS["multi_label"].with_codec(names=NAMES).calibrate(logits, targets, AnswerConfig())
  found = task.metrics.compute_metrics(logits, targets)["per_class"]["spam"]
  assert found["precision"] >= 0.95 > plain.metrics.compute_metrics(logits, targets)["per_class"]["spam"]["precision"]
  assert task.codec.thresholds[:2] == plain.codec.thresholds[:2]
  told = task.metrics.compute_metrics(logits, targets)["min_precision"]
  assert list(told) == ["spam"] and told["spam"]["recall_without"] is None
  for name in ("precision", "recall", "threshold"):
    assert told["spam"][name] == pytest.approx(found[name])
  never = tasks.TASKS["multi_label"].with_codec(names=NAMES).decide(config).calibrate(logits[:9], targets[:9], config)
  assert never.metrics.compute_metrics(logits, targets)["min_precision"]["spam"]["threshold"] is None
  assert "min_precision" not in plain.metrics.compute_metrics(logits, targets)


def test_a_sure_answer_is_no_tie_where_another_class_has_a_floor():
  decision = decisions.Decision(floors=(0.0, 0.6))
  assert decision.distances(np.array([[1 - 1e-9, 1e-9], [0.4, 0.6]])) == pytest.approx([0.6, 0], abs=1e-6)


@pytest.mark.parametrize(("flags", "share"), [({"min_accept": 0.8}, 0.8), ({"max_error": 0.1}, None)])
def test_answers_are_accepted_by_probability(data, flags, share):
  logits, targets = data
  task = fitted((logits[:1000], targets[:1000]), AnswerConfig(**flags))
  found = task.metrics.compute_metrics(logits[1000:], targets[1000:])["selective"]
  low, high = found["accepted_ci95"] if share else found["error_ci95"]
  assert low - 0.02 < (share or 0.1) < high + 0.04
  outputs, probabilities = served(task, logits), task.answers.outputs(logits)
  assert (outputs["accept"] == (probabilities.max(axis=1) >= task.codec.accept_threshold)).all()
  assert task.answers.is_shared_equal(task.answers.shared_parity(outputs, probabilities), 1e-4)
  assert "accept" not in served(fitted(data, AnswerConfig()), logits)
