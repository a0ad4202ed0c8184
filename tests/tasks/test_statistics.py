"""The metrics against scikit-learn, SciPy and explicit resampling."""

import json
import math
import time

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from tiny_metrics import confused, measure, names

from tl_app.errors import RunFailed, UserError
from tl_app.tasks import SINGLE_LABEL, single_label, statistics


def test_probabilities_are_stable_for_logits_of_any_size():
  logits = np.array([[1e4, 0.0, -1e4], [-3e38, 3e38, 0.0], [5.0, 5.0, 5.0]], np.float32)
  probabilities = statistics.softmax(logits)
  assert probabilities.dtype == np.float64
  np.testing.assert_allclose(probabilities, [[1, 0, 0], [0, 1, 0], [1 / 3] * 3])
  assert np.isfinite(statistics.log_softmax(logits)).all()


def test_metrics_are_those_of_scikit_learn():
  logits, labels = confused(500, 7, 0.8)
  metrics = measure(logits, labels, names(7))
  answers = logits.argmax(axis=1)
  assert metrics["num_examples"] == 500
  assert metrics["accuracy"] == sklearn.metrics.accuracy_score(labels, answers)
  assert metrics["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(labels, answers, average="macro"), abs=1e-12)
  assert metrics["matthews"] == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, answers), abs=1e-12)
  assert metrics["loss"] == pytest.approx(sklearn.metrics.log_loss(labels, statistics.softmax(logits)), abs=1e-9)
  assert metrics["confusion_matrix"] == sklearn.metrics.confusion_matrix(labels, answers).tolist()
  assert metrics["per_class"]["class 3"] == {
    "precision": pytest.approx(sklearn.metrics.precision_score(labels == 3, answers == 3)),
    "recall": pytest.approx(sklearn.metrics.recall_score(labels == 3, answers == 3)),
    "f1": pytest.approx(sklearn.metrics.f1_score(labels == 3, answers == 3)),
    "support": int((labels == 3).sum()),
  }


def test_a_split_of_one_class_gives_no_line_of_a_library(recwarn):
  metrics = measure(np.tile([[3.0, 0, 0]], (15, 1)), np.zeros(15, int), names(3))
  assert metrics["matthews"] == 0 and metrics["macro_f1"] == 1 and not list(recwarn)


def test_metrics_are_the_contract_in_plain_python():
  metrics = measure(*confused(300, 3, 0.7), names(3))
  assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
  contract = {"num_examples", "loss", "accuracy", "accuracy_ci95", "macro_f1", "per_class", "confusion_matrix"}
  assert contract <= metrics.keys()
  low, high = metrics["accuracy_ci95"]
  assert low < metrics["accuracy"] < high


def test_accuracy_interval_is_that_of_explicit_resampling():
  correct = np.arange(400) < 312
  rng = np.random.default_rng(1)
  resampled = [rng.choice(correct, 400).mean() for _ in range(2000)]
  expected = np.percentile(resampled, [2.5, 97.5])
  np.testing.assert_allclose(statistics.accuracy_interval(312, 400), expected, atol=0.006)
  assert statistics.accuracy_interval(312, 400, seed=3) == statistics.accuracy_interval(312, 400, seed=3)


@pytest.mark.parametrize("num_correct, num_examples", [(20, 20), (0, 20), (1, 1), (995, 1000), (4, 7)])
def test_few_errors_or_hits_get_wilsons_interval(num_correct, num_examples):
  expected = scipy.stats.binomtest(num_correct, num_examples).proportion_ci(method="wilson")
  np.testing.assert_allclose(statistics.accuracy_interval(num_correct, num_examples), expected, atol=1e-9)
  low, high = statistics.accuracy_interval(num_correct, num_examples)
  assert 0 <= low < high <= 1


def test_accuracy_interval_covers_the_truth_nineteen_times_in_twenty():
  rng = np.random.default_rng(0)
  for truth in (0.6, 0.9, 0.99):
    intervals = [statistics.accuracy_interval(k, 200, seed=i) for i, k in enumerate(rng.binomial(200, truth, size=400))]
    covered = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.91 <= covered <= 0.99, (truth, covered)


def test_macro_f1_interval_is_that_of_explicit_resampling():
  logits, labels = confused(400, 4, 0.7)
  answers = logits.argmax(axis=1)
  rng = np.random.default_rng(1)
  by_class = [np.flatnonzero(labels == c) for c in range(4)]
  resampled = []
  for _ in range(500):
    rows = np.concatenate([rng.choice(members, len(members)) for members in by_class])
    resampled.append(sklearn.metrics.f1_score(labels[rows], answers[rows], average="macro"))
  expected = np.percentile(resampled, [2.5, 97.5])
  metrics = measure(logits, labels, names(4))
  np.testing.assert_allclose(metrics["macro_f1_ci95"], expected, atol=0.012)
  assert metrics["macro_f1_ci95"][0] < metrics["macro_f1"] < metrics["macro_f1_ci95"][1]


def test_measuring_ten_thousand_examples_takes_less_than_two_seconds():
  logits, labels = confused(10_000, 77, 0.9)
  start = time.process_time()
  measure(logits, labels, names(77))
  assert time.process_time() - start < 2


def test_a_model_without_errors_is_not_called_certain():
  labels = np.array([0, 1] * 15)
  metrics = measure(np.eye(2, dtype=np.float32)[labels] * 1000, labels, names(2))
  assert metrics["accuracy"] == 1 and metrics["macro_f1"] == 1
  assert metrics["loss"] == 0 and math.copysign(1, metrics["loss"]) == 1
  assert metrics["accuracy_ci95"][0] < 0.9
  assert metrics["macro_f1_ci95"] is None


def test_macro_f1_is_the_mean_over_the_classes_that_occur_as_of_scikit_learn():
  logits = np.array([[9, 0, 0], [0, 9, 0], [9, 0, 0]], np.float32)
  metrics = measure(logits, np.array([0, 1, 1]), ["a", "b", "absent"])
  assert metrics["per_class"]["absent"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
  assert metrics["macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)
  assert metrics["macro_f1"] == pytest.approx(sklearn.metrics.f1_score([0, 1, 1], [0, 1, 0], average="macro"))
  assert statistics.classes_without_examples(metrics) == ["absent"]
  # An answer that is no true class counts: scikit-learn warns of its recall and takes 0.
  answered = measure(np.eye(3)[[0, 1, 2]] * 9.0, np.array([0, 1, 1]), ["a", "b", "absent"])
  assert answered["macro_f1"] == pytest.approx(sklearn.metrics.f1_score([0, 1, 1], [0, 1, 2], average="macro"))
  assert metrics["confusion_matrix"] == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_an_empty_split_and_nan_end_the_run_in_one_line():
  with pytest.raises(UserError, match="no examples"):
    measure(np.zeros((0, 2), np.float32), np.zeros(0, int), names(2))
  with pytest.raises(RunFailed, match="NaN"):
    measure(np.array([[np.nan, 0]], np.float32), np.array([0]), names(2))


def test_majority_is_chosen_on_train_and_counted_on_test():
  train = np.array(["no", "yes", "yes"], dtype=object)
  assert statistics.majority_accuracy(train, np.array(["no", "no", "no", "yes"], dtype=object)) == 0.25
  assert statistics.majority_accuracy(np.array([0, 0, 1]), np.array([1, 1])) == 0.0
  assert statistics.majority_accuracy(["b", "a"], ["a", "a", "b"]) == pytest.approx(2 / 3)


def test_many_classes_give_the_same_metrics_without_a_matrix(monkeypatch):
  rng = np.random.default_rng(0)
  targets, logits = rng.integers(0, 30, 200), rng.normal(size=(200, 30))
  logits[np.arange(200), targets] += 1.5
  task = SINGLE_LABEL.with_codec(names=tuple(map(str, range(30))))
  dense = task.metrics.compute_metrics(logits, targets)
  monkeypatch.setattr(single_label, "MAX_MATRIX_CLASSES", 10)
  sparse = task.metrics.compute_metrics(logits, targets)
  matrix = np.zeros((30, 30), int)
  for row, column, count in sparse.pop("confusion_cells"):
    matrix[row, column] = count
  assert matrix.tolist() == dense.pop("confusion_matrix")
  assert sparse.pop("matthews") == pytest.approx(dense.pop("matthews"))
  assert sparse == dense


def test_macro_f1_leaves_out_classes_without_examples_and_answers_as_scikit_learn_does():
  targets, answers = np.array([0, 0, 1, 3, 3, 3]), np.array([0, 1, 1, 3, 3, 4])
  one_hot = np.eye(6, dtype=np.float32)
  sums = statistics.class_counts(one_hot[answers], one_hot[targets]).sum(axis=0)
  expected = sklearn.metrics.f1_score(targets, answers, average="macro", zero_division=0)
  assert statistics.macro_f1(sums) == pytest.approx(expected)
