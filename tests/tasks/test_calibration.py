"""Calibration and its measures, against scikit-learn where it has them."""

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from sklearn.linear_model import LogisticRegression

from tl_app import tasks
from tl_app.config.groups import AnswerConfig
from tl_app.tasks import calibration, statistics

CONFIG = AnswerConfig()


@pytest.fixture(scope="module")
def overconfident():
  """(logits that are three times too large, classes drawn from the right probabilities)."""
  rng = np.random.default_rng(0)
  logits = rng.normal(scale=2.0, size=(4000, 5))
  targets = np.array([rng.choice(5, p=row) for row in scipy.special.softmax(logits, axis=1)])
  return 3 * logits, targets


def test_the_temperature_that_made_the_logits_is_found(overconfident):
  logits, targets = overconfident
  assert calibration.fit_temperature(logits, targets) == pytest.approx(3.0, rel=0.05)
  assert calibration.fit_temperature(logits / 3, targets) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_temperature_never_raises_the_cross_entropy(seed):
  rng = np.random.default_rng(seed)
  logits, targets = rng.normal(scale=10.0**seed / 100, size=(30, 4)), rng.integers(0, 4, 30)
  temperature = calibration.fit_temperature(logits, targets)
  assert statistics.cross_entropy(logits / temperature, targets) <= statistics.cross_entropy(logits, targets)


def test_a_split_without_errors_does_not_make_a_model_certain():
  logits, targets = np.eye(3)[np.arange(60) % 3] * 2.0, np.arange(60) % 3
  assert calibration.fit_temperature(logits, targets) > 0.1


def test_platt_scaling_is_logistic_regression_on_the_logit():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(5000, 1))
  targets = (rng.random(logits.shape) < scipy.special.expit(2 * logits - 1)).astype(np.float32)
  slopes, offsets = calibration.fit_platt(logits, targets)
  reference = LogisticRegression(C=np.inf).fit(logits, targets[:, 0])
  assert slopes[0] == pytest.approx(reference.coef_[0, 0], rel=0.01)
  assert offsets[0] == pytest.approx(reference.intercept_[0], abs=0.01)


def test_a_rare_class_takes_the_scaling_of_all_classes():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(400, 2))
  targets = np.zeros((400, 2))
  targets[:, 0], targets[:5, 1] = rng.random(400) < scipy.special.expit(3 * logits[:, 0]), 1
  slopes, offsets = calibration.fit_platt(logits, targets)
  assert (slopes[1], offsets[1]) == calibration._fit_sigmoid(logits.ravel(), targets.ravel())
  assert slopes[0] != slopes[1]


def test_the_error_of_scores_that_say_too_much():
  scores, right = np.full(1000, 0.9), np.arange(1000) % 2 == 0
  found = calibration.quality(scores, right)
  assert found["ece"] == pytest.approx(found["adaptive_ece"]) == pytest.approx(0.4)
  assert found["reliability"] == [[pytest.approx(0.9), 0.5, 1000]]
  assert found["ece_if_calibrated"] == pytest.approx(np.sqrt(0.9 * 0.1 / 1000 * 2 / np.pi), rel=0.1)


@pytest.mark.parametrize(
  "scores",
  [
    np.full(1000, 0.9),
    np.random.default_rng(0).beta(8, 1, 3000),
    np.random.default_rng(1).beta(0.3, 8, 5000),
    np.full(300, 0.998),
    np.random.default_rng(2).random(20),
  ],
)
def test_the_error_of_exact_probabilities_is_that_of_a_simulation(scores):
  rng, bins = np.random.default_rng(4), calibration._equal_width(scores)
  drawn = [calibration._error(scores, rng.random(len(scores)) < scores, bins) for _ in range(4000)]
  assert calibration.expected_error_if_calibrated(scores) == pytest.approx(np.mean(drawn), rel=0.05)


def test_no_order_of_answers_is_better_than_right_answers_first():
  right = np.array([True, True, False, True])
  best, worst = (calibration.risk_coverage(scores, right)["aurc"] for scores in ([4, 3, 1, 2], [1, 2, 4, 3]))
  assert best == pytest.approx(1 / 16)
  assert worst == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
  assert calibration.risk_coverage(np.array([4, 3, 1, 2]), right)["points"][-1] == [1.0, 1.0, 0.25]


@pytest.mark.parametrize("name", ["single_label", "multi_label"])
def test_labels_stay_and_the_error_falls(name, overconfident):
  logits, classes = (values[:1000] for values in overconfident)
  task = tasks.TASKS[name].fit([str(number) for number in range(5)])
  targets = classes
  if name == "multi_label":
    rng = np.random.default_rng(1)
    targets = (rng.random(logits.shape) < scipy.special.expit(logits / 3 - 1)).astype(np.float32)
  task = task.configure(_NO_COLUMNS, ["a"]) if name == "multi_label" else task
  plain = task.calibrate(logits, targets, AnswerConfig(calibration="none"))
  fitted = task.calibrate(logits, targets, CONFIG)
  before, after = (one.metrics.compute_metrics(logits, targets) for one in (plain, fitted))
  rows = [
    [row[2] for row in one.answers.rows(map(str, range(100)), _labels(name, one, targets), _outputs(one, logits))]
    for one in (plain, fitted)
  ]
  assert rows[0] == rows[1]
  assert before["macro_f1"] == after["macro_f1"]
  assert after["calibration"]["uncalibrated"] == {k: v for k, v in before["calibration"].items() if k != "uncalibrated"}
  assert after["calibration"]["ece"] < before["calibration"]["ece"] / 3
  assert after["loss"] < before["loss"]
  crossed = task.cross_fitted(logits, targets, CONFIG)
  assert after["loss"] < crossed["loss"] < before["loss"]


def test_brier_score_is_that_of_scikit_learn(overconfident):
  logits, targets = overconfident
  task = tasks.SINGLE_LABEL.fit([str(number) for number in range(5)])
  probabilities = scipy.special.softmax(logits, axis=1)
  expected = sklearn.metrics.brier_score_loss(targets, probabilities, labels=range(5), scale_by_half=False)
  assert task.metrics.compute_metrics(logits, targets)["calibration"]["brier"] == pytest.approx(expected)


def test_too_few_examples_for_folds_give_nothing():
  task = tasks.SINGLE_LABEL.fit(["a", "b"])
  assert task.cross_fitted(np.zeros((4, 2)), np.array([0, 1, 0, 1]), CONFIG) is None


class _NO_COLUMNS:
  label_columns, label_separator = "", ","


def _outputs(task, logits):
  return task.answers.outputs(logits)[:100]


def _labels(name, task, targets):
  if name == "single_label":
    return [task.names[target] for target in targets[:100]]
  return [task.codec.join(row) for row in targets[:100]]
