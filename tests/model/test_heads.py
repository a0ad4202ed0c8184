"""Heads: equal probabilities at first, and scikit-learn's answer carried over exactly."""

import keras
import numpy as np
import pytest
import sklearn.linear_model
import sklearn.svm

from tl_app.config.groups import HeadConfig
from tl_app.model import heads
from tl_app.tasks import SINGLE_LABEL, solvers


def _data(num_classes, n=120):
  rng = np.random.default_rng(0)
  labels = np.arange(n) % num_classes
  features = (rng.normal(size=(n, 6)) + 2 * np.eye(6)[labels % 6] + 5).astype("f")
  return features, labels


def test_a_fresh_head_gives_equal_probabilities():
  head = heads.build(6, 3)
  assert np.asarray(head(np.ones((2, 6)), training=False)).tolist() == [[0.0] * 3] * 2


def test_hidden_layers_start_with_equal_probabilities_and_learn_what_no_linear_head_can():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(400, 6)).astype("f")
  labels = (features[:, 0] * features[:, 1] > 0).astype("int32")
  accuracy = {}
  for units in ("", "32,16"):
    keras.utils.set_random_seed(0)
    head = heads.build(6, 2, HeadConfig(head_hidden_units=units, head_dropout=0.1))
    heads.standardize(head, features)
    assert not np.asarray(head(features[:4], training=False)).any()
    before = head.get_weights()
    head.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    head.fit(features, labels, epochs=30, verbose=0)
    accuracy[units] = np.mean(heads.logits(head, features).argmax(axis=1) == labels)
    heads.reset(head, np.zeros(2, "f"))
    for value, again in zip(before, head.get_weights()):
      np.testing.assert_array_equal(value, again)
  assert accuracy[""] < 0.7 and accuracy["32,16"] > 0.9
  assert [layer.name for layer in head.layers if "hidden" in layer.name] == ["hidden_1", "hidden_2"]


def test_standardize_centres_and_keeps_relative_scales():
  features, _ = _data(3)
  features[:, 2] *= 0.01
  head = heads.build(6, 3)
  heads.standardize(head, features)
  layer = head.get_layer("standardize")
  scaled = np.asarray(layer(features, training=False))
  np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
  assert scaled.var(axis=0).mean() == pytest.approx(1, abs=1e-3)
  ratio = features.std(axis=0) / features.std(axis=0)[0]
  np.testing.assert_allclose(scaled.std(axis=0) / scaled.std(axis=0)[0], ratio, rtol=1e-3)


def test_features_that_hardly_vary_do_not_carry_rounding_into_the_answer():
  head = heads.build(6, 3)
  features = 5 + 1e-5 * np.random.default_rng(0).normal(size=(50, 6))
  heads.standardize(head, features)
  scaled = np.asarray(head.get_layer("standardize")(features.astype("f"), training=False))
  rounded = np.asarray(head.get_layer("standardize")(np.nextafter(features.astype("f"), np.float32(9)), training=False))
  assert np.abs(scaled - rounded).max() < 1e-5


def test_constant_features_do_not_divide_by_zero():
  head = heads.build(6, 3)
  heads.standardize(head, np.ones((10, 6)))
  assert np.isfinite(np.asarray(head(np.ones((2, 6)), training=False))).all()


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("solver", ["logistic", "svm"])
def test_scikit_learn_is_carried_over_exactly(solver, num_classes):
  features, labels = _data(num_classes)
  head = heads.build(6, num_classes)
  heads.standardize(head, features[:90])
  task = SINGLE_LABEL.with_codec(names=tuple(map(str, range(num_classes))))
  part = heads.Part(
    heads.LabelledFeatures(features[:90], labels[:90]), heads.LabelledFeatures(features[90:], labels[90:])
  )
  solved = heads.solve(head, solver, task, [part])
  heads.set_logits(head, solved.weights[0])
  tried = solved.tried
  assert [t["strength"] for t in tried] == list(solvers.STRENGTHS[: len(tried)])
  key = (lambda t: -t["calibrated_loss"]) if solver == "logistic" else (lambda t: t["accuracy"])
  strength = max(tried, key=key)["strength"]
  assert strength == solved.strength and len(tried) - 1 - solvers.STRENGTHS.index(strength) in (0, 1, heads.WORSE)
  np.testing.assert_allclose(solved.logits[0], np.asarray(head(features[90:], training=False)), atol=1e-5)
  alone = heads.solve(head, solver, task, [part], strength)
  assert alone.tried == [max(tried, key=key)]
  heads.set_logits(head, alone.weights[0])
  scaled = np.asarray(head.get_layer("standardize")(features, training=False))
  if solver == "logistic":
    # Each starts from the coefficients of the strength before.
    own = sklearn.linear_model.LogisticRegression(max_iter=1000, warm_start=True)
    for c in solvers.STRENGTHS[: solvers.STRENGTHS.index(strength) + 1]:
      own.set_params(C=c).fit(scaled[:90], labels[:90])
  else:
    own = sklearn.svm.LinearSVC(C=strength * 0.01, dual="auto", random_state=0).fit(scaled[:90], labels[:90])
  logits = np.asarray(head(features, training=False))
  assert (logits.argmax(axis=1) == own.predict(scaled)).all()
  if solver == "logistic":
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(exp / exp.sum(axis=1, keepdims=True), own.predict_proba(scaled), atol=1e-5)


def test_a_known_strength_has_the_weights_that_the_search_has_judged():
  """The log had accuracy 0.917, the summary 0.908, of one probe: the solver stops where its start is good enough."""
  random = np.random.default_rng(0)
  labels = np.repeat(np.arange(3), 50)
  features = (random.normal(size=(150, 400)) + 2 * np.eye(3, 400)[labels]).astype(np.float32)
  order = random.permutation(150)
  fitted, held_out = (heads.LabelledFeatures(features[rows], labels[rows]) for rows in np.split(order, [120]))
  head = heads.build(400, 3)
  heads.standardize(head, fitted.features)
  task, part = SINGLE_LABEL.with_codec(names=tuple("abc")), heads.Part(fitted, held_out)
  searched = heads.solve(head, "logistic", task, [part])
  for strength, logits in searched.path.items():
    alone = heads.solve(head, "logistic", task, [part], strength)
    assert alone.strength == strength and len(alone.tried) == 1
    np.testing.assert_array_equal(alone.logits[0], logits)
