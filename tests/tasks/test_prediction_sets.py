"""Prediction sets and intervals: coverage, and the sets of MAPIE."""

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from tl_app import tasks
from tl_app.config.groups import AnswerConfig
from tl_app.tasks import prediction_sets
from tl_app.tasks.prediction_sets import APS, LAC, METHODS, MONDRIAN


@pytest.fixture(scope="module")
def drawn():
  """(probabilities float64 [3000, 6], classes drawn from them)."""
  rng = np.random.default_rng(0)
  probabilities = scipy.special.softmax(rng.normal(scale=2.0, size=(3000, 6)), axis=1)
  return probabilities, np.array([rng.choice(6, p=row) for row in probabilities])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("coverage", [0.9, 0.95])
def test_sets_hold_the_truth_as_often_as_promised(drawn, method, coverage):
  probabilities, targets = drawn
  rule = prediction_sets.fit(probabilities[:1000], targets[:1000], coverage, method)
  measured = prediction_sets.measure(rule.members(probabilities[1000:]), targets[1000:])
  low, high = measured["measured_ci95"]
  # APS takes the class with which the sum is reached as a whole, and so holds the truth more often.
  assert coverage < high and (method == APS or low - 0.02 < coverage)
  assert 1 < measured["mean_size"] < 6


def test_a_set_for_each_class_holds_for_each_class(drawn):
  probabilities, targets = drawn
  # Class 0 is harder than the others.
  probabilities = probabilities.copy()
  probabilities[targets == 0] = np.roll(probabilities[targets == 0], 1, axis=1)
  shared, own = (prediction_sets.fit(probabilities[:1500], targets[:1500], 0.9, name) for name in (LAC, MONDRIAN))
  held = [rule.members(probabilities[1500:])[targets[1500:] == 0, 0].mean() for rule in (shared, own)]
  assert held[0] < 0.8 and abs(held[1] - 0.9) < 0.06


class _Fixed(ClassifierMixin, BaseEstimator):
  """Answers the probabilities that are its inputs."""

  def __init__(self):
    self.classes_ = np.arange(6)

  def fit(self, inputs, targets):
    return self

  def __sklearn_is_fitted__(self):
    return True

  def predict_proba(self, inputs):
    return inputs

  def predict(self, inputs):
    return inputs.argmax(axis=1)


@pytest.mark.parametrize(("method", "options"), [(LAC, {}), (APS, {"include_last_label": True})])
def test_sets_are_those_of_mapie(drawn, method, options):
  probabilities, targets = drawn
  reference = SplitConformalClassifier(
    _Fixed(), confidence_level=0.9, conformity_score=method, prefit=True, random_state=prediction_sets.SEED
  )
  reference.conformalize(probabilities[:1000], targets[:1000])
  _, expected = reference.predict_set(probabilities[1000:], conformity_score_params=options)
  rule = prediction_sets.fit(probabilities[:1000], targets[:1000], 0.9, method)
  assert np.array_equal(rule.members(probabilities[1000:]), expected[..., 0])


@pytest.mark.parametrize("method", METHODS)
def test_the_graph_gives_the_same_sets(drawn, method):
  probabilities, targets = drawn
  rule = prediction_sets.fit(probabilities[:1000], targets[:1000], 0.9, method)
  served = rule.tensor_members(tf.constant(probabilities, tf.float32)).numpy()
  differ = (served != rule.members(probabilities)) & (rule.distances(probabilities) > 1e-5)
  assert not differ.any() and served.any()


def test_too_few_examples_put_every_class_into_the_set():
  probabilities, targets = np.full((18, 3), 1 / 3), np.arange(18) % 3
  for method in METHODS:
    assert prediction_sets.fit(probabilities, targets, 0.95, method).members(probabilities).all()
  assert not prediction_sets.fit(np.eye(19), np.arange(19), 0.95, LAC).members(np.full((1, 19), 1 / 19)).any()
  assert np.isfinite(prediction_sets.quantile(np.arange(19.0), 0.95))
  assert np.isinf(prediction_sets.quantile(np.arange(18.0), 0.95))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.45])
def test_equal_probabilities_are_in_the_set_of_their_class(method, share):
  # 1 - (1 - 0.3) is above 0.3.
  probabilities = np.full((100, 3), [share, share, 1 - 2 * share])
  targets = np.zeros(100, int)
  rule = prediction_sets.fit(probabilities, targets, 0.9, method)
  assert rule.members(probabilities)[:, 0].all()


def test_intervals_of_numbers_are_in_their_unit():
  rng = np.random.default_rng(0)
  task = tasks.REGRESSION.configure(_Column, []).fit(list(map(str, rng.normal(100, 10, 500))))
  targets = rng.normal(size=(2000, 1))
  logits = targets + rng.normal(scale=0.3, size=targets.shape)
  fitted = task.calibrate(logits[:1000], targets[:1000], AnswerConfig(coverage=0.9))
  found = fitted.metrics.compute_metrics(logits[1000:], targets[1000:])["intervals"]["per_target"]["price"]
  assert found["half_width"] == pytest.approx(1.645 * 3, rel=0.1)
  assert found["measured"] == pytest.approx(0.9, abs=0.03)
  served = {
    name: value.numpy() for name, value in fitted.answers.signature_outputs(tf.constant(logits, tf.float32), []).items()
  }
  answer = next(fitted.answers.decode(served, []))
  low, high = answer["intervals"]["price"]
  assert (high - low) / 2 == pytest.approx(found["half_width"], rel=1e-5)
  assert (low + high) / 2 == pytest.approx(answer["values"]["price"], rel=1e-5)
  cells = fitted.answers.more_cells(fitted.answers.outputs(logits))
  assert [float(cells[name][0]) for name in ("low", "high")] == pytest.approx([low, high], rel=1e-5)
  few = task.calibrate(logits[:5], targets[:5], AnswerConfig())
  assert few.codec.half_widths == () and "intervals" not in few.metrics.compute_metrics(logits, targets)


class _Column:
  label_columns, label_column = "", "price"
