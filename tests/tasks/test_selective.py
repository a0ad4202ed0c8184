"""Accepted answers: their error on new examples, and their share."""

import numpy as np
import pytest

from tl_app.tasks import selective


def drawn(rng, count):
  """Returns (scores, right): answers that are right as often as their scores say."""
  scores = rng.beta(5, 1, count)
  return scores, rng.random(count) < scores


@pytest.mark.parametrize(("count", "limit"), [(200, 0.1), (2000, 0.05)])
def test_accepted_answers_are_wrong_as_rarely_as_promised(count, limit):
  rng, errors, shares = np.random.default_rng(0), [], []
  for _ in range(300):
    threshold = selective.threshold_for_error(*drawn(rng, count), limit)
    scores, right = drawn(rng, 4000)
    accepted = scores >= threshold
    shares.append(accepted.mean())
    errors.append((accepted & ~right).sum() / max(accepted.sum(), 1))
  assert 0.6 * limit < np.mean(errors) <= limit
  # Below the best possible share by the sampling error alone.
  scores, right = drawn(rng, 200_000)
  order = np.argsort(-scores)
  best = np.max(np.flatnonzero(np.cumsum(~right[order]) <= limit * np.arange(1, len(order) + 1))) / len(order)
  assert 0.7 * best < np.mean(shares) < 1.05 * best


def test_too_few_examples_for_so_small_an_error_accept_nothing():
  assert selective.threshold_for_error(np.linspace(0.5, 1, 49), np.ones(49, bool), 0.02) == selective.NEVER
  assert selective.threshold_for_error(np.linspace(0.5, 1, 50), np.ones(50, bool), 0.02) == 0.0
  assert selective.threshold_for_error(np.ones(0), np.ones(0, bool), 0.5) == selective.NEVER


def test_equal_scores_are_on_the_same_side():
  scores, right = np.repeat([0.9, 0.6], 50), np.ones(100, bool)
  right[50:55] = False
  threshold = selective.threshold_for_error(scores, right, 0.04)
  assert 0.6 < threshold < 0.9
  right[0] = False
  assert selective.threshold_for_error(scores, right, 0.03) == selective.NEVER


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_the_wanted_share_is_accepted(share):
  rng = np.random.default_rng(0)
  found = [np.mean(rng.random(2000) >= selective.threshold_for_share(rng.random(39), share)) for _ in range(400)]
  assert share - 0.01 < np.mean(found) < share + 0.035


def test_measured_shares_and_errors():
  accepted, right = np.arange(100) < 80, np.arange(100) >= 8
  found = selective.measure(accepted, right)
  assert (found["accepted"], found["error"], found["error_of_all"]) == (0.8, 0.1, 0.08)
  assert found["error_ci95"][0] < 0.1 < found["error_ci95"][1]
  nothing = selective.measure(np.zeros(10, bool), right[:10])
  assert nothing["error"] is nothing["error_ci95"] is None
  assert set(selective.measure(accepted)) == {"accepted", "accepted_ci95"}
