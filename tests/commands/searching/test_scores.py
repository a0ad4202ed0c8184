"""Probes in closed form and scores without training, against slow reference versions."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import sklearn.covariance
import sklearn.linear_model
import sklearn.neighbors

from tl_app.commands.searching import probes, scores
from tl_app.tasks import REGRESSION, SINGLE_LABEL

TASK = SINGLE_LABEL.with_codec(names=("a", "b", "c"))


def drawn(n=90, width=12, strength=2.0, seed=0):
  rng = np.random.default_rng(seed)
  labels = np.arange(n) % 3
  features = rng.normal(size=(n, width)) + strength * rng.normal(size=(3, width))[labels] / width**0.5
  return features.astype(np.float32), labels.astype(np.int32)


def parts_of(targets):
  """Returns five folds."""
  return [np.arange(len(targets))[k::5] for k in range(5)]


def slow_logme(x, y):
  """The evidence of a Bayesian linear model, maximised by a general optimiser over alpha and beta."""
  x, n, width = x.astype(np.float64), *x.shape

  def negative(logs, column):
    alpha, beta = np.exp(logs)
    a = alpha * np.eye(width) + beta * x.T @ x
    m = beta * scipy.linalg.solve(a, x.T @ column)
    rest = np.square(x @ m - column).sum()
    evidence = width / 2 * np.log(alpha) + n / 2 * np.log(beta) - n / 2 * np.log(2 * np.pi)
    return -(evidence - beta / 2 * rest - alpha / 2 * m @ m - np.linalg.slogdet(a)[1] / 2) / n

  starts = [(0.0, 0.0), (3.0, 1.0)]
  return np.mean(
    [
      max(-scipy.optimize.minimize(negative, s, (column,), "Nelder-Mead", tol=1e-9).fun for s in starts)
      for column in y.T
    ]
  )


@pytest.mark.parametrize(("n", "width"), [(60, 5), (25, 40)])
def test_logme_is_the_maximum_evidence(n, width):
  features, labels = drawn(n, width)
  targets = np.eye(3)[labels]
  assert scores.logme(features, targets) == pytest.approx(slow_logme(features, targets), abs=2e-4)


def test_h_score_is_the_trace():
  features, labels = drawn(60, 6)
  covariance = sklearn.covariance.LedoitWolf().fit(features.astype(np.float64))
  means = np.stack([features[labels == k].mean(axis=0) for k in range(3)])[labels] - features.mean(axis=0)
  between = sum(np.outer(row, row) for row in means.astype(np.float64)) / len(means)
  expected = (1 - covariance.shrinkage_) * np.trace(np.linalg.inv(covariance.covariance_) @ between)
  assert scores.h_score(features, labels) == pytest.approx(expected, rel=1e-5)


def test_better_features_have_higher_scores():
  found = []
  for strength in (0.0, 1.0, 3.0):
    features, labels = drawn(strength=strength)
    rows = probes.Rows.of(features, labels)
    parts = parts_of(labels)
    values = [probes.cross_validated(rows, TASK, parts).score, probes.neighbours(rows, TASK, parts).score]
    found.append([*values, scores.logme(features, np.eye(3)[labels]), scores.h_score(features, labels)])
  for worse, better in zip(found, found[1:]):
    assert all(a < b for a, b in zip(worse, better))


@pytest.mark.parametrize(("n", "width"), [(90, 12), (30, 50)])
def test_the_path_is_ridge_regression(n, width):
  features, labels = drawn(n, width)
  x, y, others = features[:-10], np.eye(3)[labels[:-10]], features[-10:]
  centred = x - x.mean(axis=0)
  singular = np.linalg.svd(centred.astype(np.float64), compute_uv=False)
  unit = np.square(singular[singular > singular.max() * 1e-5]).mean()
  for strength, outputs in zip(probes.STRENGTHS, probes.ridge_path(x, y, others)):
    reference = sklearn.linear_model.Ridge(alpha=strength * unit, solver="svd").fit(x.astype(np.float64), y)
    np.testing.assert_allclose(outputs, reference.predict(others.astype(np.float64)), atol=1e-5)


def test_cross_validation_is_that_of_single_fits():
  features, labels = drawn(60, 6)
  rows = probes.Rows.of(features, labels)
  parts = parts_of(labels)
  found = probes.cross_validated(rows, TASK, parts)
  place = probes.STRENGTHS.index(found.strength)
  answers = np.zeros((60, 3))
  for part in parts:
    rest = np.setdiff1d(np.arange(60), part)
    answers[part] = probes.ridge_path(features[rest], np.eye(3)[labels[rest]], features[part])[place]
  assert found.score == np.mean(answers.argmax(axis=1) == labels)
  np.testing.assert_allclose(found.outputs, answers, atol=1e-5)


def test_neighbours_are_those_of_scikit_learn():
  features, labels = drawn(60, 6)
  rows = probes.Rows.of(features, labels)
  parts = parts_of(labels)
  right = 0
  for part in parts:
    rest = np.setdiff1d(np.arange(60), part)
    reference = sklearn.neighbors.KNeighborsRegressor(probes.NEIGHBOURS, metric="cosine")
    reference.fit(features[rest], np.eye(3)[labels[rest]])
    right += np.sum(reference.predict(features[part]).argmax(axis=1) == labels[part])
  assert probes.neighbours(rows, TASK, parts).score == pytest.approx(right / 60)


def test_a_class_that_a_fold_lacks_is_no_error():
  features, labels = drawn(30)
  labels = np.where(np.arange(30) == 0, 2, labels % 2).astype(np.int32)
  rows = probes.Rows.of(features, labels)
  assert 0 <= probes.cross_validated(rows, TASK, parts_of(labels)).score <= 1


def test_numbers_are_predicted():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(80, 5)).astype(np.float32)
  cells = np.array([str(value) for value in features @ np.arange(5) + 0.01 * rng.normal(size=80)], object)
  task = REGRESSION.with_codec(names=("value",)).fit(cells)
  rows = probes.Rows.of(features, task.codec.targets(cells))
  parts = parts_of(rows.example_targets)
  good = probes.cross_validated(rows, task, parts)
  noise = probes.Rows.of(rng.normal(size=(80, 5)).astype(np.float32), rows.example_targets)
  assert good.score > probes.cross_validated(noise, task, parts).score
