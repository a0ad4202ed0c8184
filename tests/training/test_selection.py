"""What ships is chosen on one validation split, and never worse there than the probe."""

import numpy as np
import pytest
import scipy.stats

from tl_app.report import formatting
from tl_app.tasks import SINGLE_LABEL, statistics
from tl_app.training import selection

LABELS = np.array([0, 1] * 10)
TASK = SINGLE_LABEL.with_codec(names=("a", "b"))


def _rung(name, wrong):
  logits = np.full((20, 2), -1.0, np.float32)
  logits[np.arange(20), LABELS] = 1.0
  logits[:wrong] *= -1
  return selection.Rung(name, logits, [])


@pytest.mark.parametrize(
  ("wrong", "ships"),
  [((5, 2), "fine_tuned"), ((5, 9), "probe"), ((5, 5), "probe"), ((5, 4, 1), "averaged"), ((0,), "probe")],
)
def test_the_best_ships_and_ties_go_to_the_simpler(wrong, ships):
  rungs = [_rung(name, n) for name, n in zip(("probe", "fine_tuned", "averaged"), wrong)]
  best, why, figures = selection.choose(rungs, LABELS, TASK)
  assert best.name == ships
  assert why.startswith(formatting.candidate(ships)) and "\n" not in why
  assert figures["probe"]["accuracy"] == pytest.approx(1 - wrong[0] / 20)
  assert ("did not help" in why) == (ships == "probe" and len(wrong) > 1)


@pytest.mark.parametrize(
  ("wrong", "p", "doubt"), [(3, "0.25", ": 20 examples do not distinguish them)"), (8, "0.0078", ")")]
)
def test_what_few_examples_cannot_tell_is_said(wrong, p, doubt):
  rungs = [_rung("probe", wrong), _rung("fine_tuned", 0)]
  _, why, _ = selection.choose(rungs, LABELS, TASK)
  assert why.endswith(f"p = {p}{doubt}")


def test_mcnemar_counts_only_where_one_of_two_is_right():
  right, other = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1], bool), np.array([0, 0, 0, 1, 0, 0, 0, 1, 1], bool)
  assert statistics.mcnemar(right, other) == pytest.approx(scipy.stats.binomtest(5, 6, 0.5).pvalue)
  assert statistics.mcnemar(right, right) == 1.0


def test_marks_need_no_training():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 2, 200)
  features = rng.normal(size=(200, 4)) + 3 * labels[:, None] * np.array([1, 0, 0, 0])
  marks = selection.marks(features[:150], labels[:150], features[150:], labels[150:], TASK)
  assert marks["majority_class"] == pytest.approx(np.mean(labels[150:] == np.bincount(labels[:150]).argmax()))
  assert marks["nearest_neighbours"] > 0.8


def test_of_several_phases_the_best_is_kept():
  rungs = [_rung(name, wrong) for name, wrong in (("unfreeze_1", 3), ("unfreeze_2", 1), ("unfreeze_3", 1))]
  assert selection.better(rungs, LABELS, TASK).name == "unfreeze_2"
