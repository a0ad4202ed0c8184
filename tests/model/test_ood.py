"""The out-of-distribution score: its distribution, its graph, and what it finds."""

import numpy as np
import pytest
import tensorflow as tf

from tl_app import tasks
from tl_app.config.groups import AnswerConfig
from tl_app.model import ood
from tl_app.tasks.answers import OOD_TOLERANCE
from tl_app.tasks.label_codec import OOD_SCORE
from tl_app.training import out_of_distribution
from tl_app.training.answered import Answered


def drawn(rng, count, shift=0.0):
  """Returns (features, certainty) of three groups; `shift` moves them away."""
  centres = np.eye(3, 8)[rng.integers(0, 3, count)] * 4
  features = (centres + rng.normal(size=(count, 8)) + shift).astype(np.float32)
  return features, features[:, :3].max(axis=1)


@pytest.fixture(scope="module")
def score():
  rng = np.random.default_rng(0)
  return ood.fit(drawn(rng, 500)[0], *drawn(rng, 1000))


def test_scores_of_new_examples_are_uniform(score):
  scores = score.score(*drawn(np.random.default_rng(1), 4000))
  for share in (0.1, 0.5, 0.9, 0.95):
    assert np.mean(scores <= share) == pytest.approx(share, abs=0.035)
  assert scores.min() >= 0 and scores.max() <= 1


def test_examples_of_another_kind_have_high_scores(score):
  features = -drawn(np.random.default_rng(2), 300)[0]
  scores = score.score(features, features[:, :3].max(axis=1))
  assert np.mean(scores > 0.95) > 0.9


@pytest.mark.parametrize("with_logits", [True, False])
def test_the_graph_gives_the_same(with_logits):
  rng = np.random.default_rng(0)
  reference, (features, certainty) = drawn(rng, 40)[0], drawn(rng, 300)
  certainty = certainty if with_logits else None
  found = ood.fit(reference, features, certainty)
  features = np.concatenate([features, 100 * features[:20], -features[:20], np.zeros((1, 8), np.float32)])
  certainty = features[:, :3].max(axis=1) if with_logits else None
  given = None if certainty is None else tf.constant(certainty)
  answers = found.tensor_score(tf.constant(features), given, tf.constant(found.references)).numpy()
  np.testing.assert_allclose(answers, found.score(features, certainty), atol=1e-4)
  assert len(found.points) > 200 and answers.dtype == np.float32 and np.std(answers) > 0.2


@pytest.mark.parametrize("spread", [0, 1e-7, 1e-3, 1e-2, 0.03])
def test_rounding_does_not_show_where_nearly_all_features_are_alike(spread):
  rng = np.random.default_rng(0)
  training, features, new = (
    (1 + np.linspace(0, 1, 128) + spread * rng.normal(size=(count, 128))).astype(np.float32) for count in (150, 300, 99)
  )
  found = ood.fit(training, features, None)
  answers = found.tensor_score(tf.constant(new), None, tf.constant(found.references)).numpy()
  np.testing.assert_allclose(answers, found.score(new, None), atol=OOD_TOLERANCE / 2)


def test_a_score_is_the_same_after_it_was_saved(score, tmp_path):
  score.save(tmp_path / "ood.npz")
  rows = drawn(np.random.default_rng(3), 50)
  np.testing.assert_array_equal(ood.load(tmp_path / "ood.npz").score(*rows), score.score(*rows))


def test_equal_validation_examples_are_no_error():
  features = np.ones((5, 4), np.float32)
  found = ood.fit(features, features, np.ones(5, np.float32))
  assert 0 <= found.score(features, np.ones(5, np.float32))[0] <= 1
  assert found.score(-features, -np.ones(5, np.float32))[0] == 1


def test_references_are_of_all_classes():
  classes = np.fromiter([("a",)] * 95 + [("b",), ("c", "d")] * 2 + [()], dtype=object, count=100)
  assert sorted(ood.spread(classes)) == list(range(100))
  few = ood.spread(classes, 50)
  assert len(few) == 50 and {classes[i] for i in few} >= {("a",), ("b",), ()}


@pytest.mark.parametrize("flags", [{"min_accept": 0.9}, {"max_error": 0.1}])
def test_answers_are_accepted_by_the_score(score, flags):
  rng = np.random.default_rng(4)
  (features, certainty), targets = drawn(rng, 2000), rng.integers(0, 3, 2000)
  logits = 5 * np.eye(3)[targets] + rng.normal(size=(2000, 3))
  scores = score.score(features, certainty)
  # Answers about unusual inputs are wrong.
  unusual = scores > 0.7
  logits[unusual] = np.roll(logits[unusual], 1, axis=1)
  config = AnswerConfig(accept_by=OOD_SCORE, **flags)
  task = tasks.SINGLE_LABEL.fit(["a", "b", "c"]).calibrate(logits, targets, config)
  answered = Answered(logits, targets, np.arange(2000), ood_scores=scores)
  fitted = out_of_distribution.Fitted(score, *(answered.take(part) for part in np.split(np.arange(2000), 2)))
  task = out_of_distribution.accepting(task, fitted.validation, config)
  outputs = task.answers.outputs(logits[1000:])
  found = out_of_distribution.accepted(task, fitted.test)["selective"]
  assert found["by"] == OOD_SCORE
  if "min_accept" in flags:
    assert found["accepted"] == pytest.approx(0.9, abs=0.03)
  else:
    assert found["error"] < 0.13 < found["error_of_all"] and 0.7 < found["accepted"] < 0.85
  served = {"ood_score": scores[1000:], "accept": scores[1000:] <= task.codec.accept_threshold}
  served |= {"label": np.array(task.names)[outputs.argmax(axis=1)], "probabilities": outputs}
  served["prediction_set"] = task.codec.set_rule.members(outputs)
  equal = task.answers.shared_parity(served, outputs, scores[1000:])
  assert task.answers.is_shared_equal(equal, 1e-4)
  other = task.answers.shared_parity(served | {"ood_score": scores[1000:] + 0.01}, outputs, scores[1000:])
  assert not task.answers.is_shared_equal(other, 1e-4)
