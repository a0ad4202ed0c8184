"""Model selection on one validation split: the selected model is never worse there than the probe."""

import dataclasses
import logging
import types

import numpy as np
import pytest
import scipy.stats

from tl_app import tasks
from tl_app.config import Config
from tl_app.data import modalities
from tl_app.data.examples import Examples, Inputs, strings
from tl_app.report import formatting, slices
from tl_app.tasks import SINGLE_LABEL, statistics
from tl_app.training import phases, selection

LABELS = np.array([0, 1] * 10)
TASK = SINGLE_LABEL.with_codec(names=("a", "b"))


def _candidate(name, wrong):
  """Returns a `Candidate` that answers the first `wrong` examples wrong."""
  logits = np.full((20, 2), -1.0, np.float32)
  logits[np.arange(20), LABELS] = 1.0
  logits[:wrong] *= -1
  return selection.Candidate(name, logits, [], "phase")


def test_in_cross_validation_the_calibrated_loss_decides_between_equal_accuracies():
  rng, rows = np.random.default_rng(0), np.arange(20)
  probe = dataclasses.replace(_candidate("probe", 2), rows=rows, estimate={"estimate": "cross_validation", "folds": 5})
  sure = probe.logits * rng.uniform(0.2, 1, (20, 1)).astype(np.float32)
  sure[:2] *= 0.05
  tuned = dataclasses.replace(probe, name="fine_tuned", logits=sure)
  selected = selection.select([probe, tuned], LABELS, TASK)
  assert selected.best is tuned and selected.metrics["fine_tuned"]["p_value"] == 1
  assert "its calibrated loss is lower by 0." in selected.reason
  # On the validation split the loss has chosen the epoch.
  on_split = [dataclasses.replace(candidate, rows=None) for candidate in (probe, tuned)]
  assert selection.select(on_split, LABELS, TASK).best.name == "probe"
  worse = dataclasses.replace(tuned, logits=-sure)
  assert selection.select([probe, worse], LABELS, TASK).best is probe


def test_the_worst_group_decides():
  labels, sex = np.tile(LABELS, 4), np.array(["f"] * 40 + ["m"] * 40)
  groups = [slices.columns.divide("sex", sex)]

  def candidate(name, wrong):
    logits = np.full((80, 2), -1.0, np.float32)
    logits[np.arange(80), labels] = 1.0
    logits[wrong] *= -1
    return selection.Candidate(name, logits, [], "phase")

  # The second is better over all, and worse for men.
  candidates = [candidate("probe", np.arange(30, 50)), candidate("fine_tuned", np.arange(40, 51))]
  assert selection.select(candidates, labels, TASK).best.name == "fine_tuned"
  selected = selection.select(candidates, labels, TASK, groups=groups)
  assert selected.best.name == "probe"
  tuned = selected.metrics["fine_tuned"]
  assert tuned["worst_group"] == pytest.approx(0.725) and tuned["accuracy"] == pytest.approx(69 / 80)
  assert selected.reason == (
    "probe: the best accuracy in the worst group of the validation split: probe 0.7500 (sex = f), fine-tuned 0.7250 "
    "(sex = m)"
  )


@pytest.mark.parametrize(
  ("wrong", "best"),
  [((5, 2), "fine_tuned"), ((5, 9), "probe"), ((5, 5), "probe"), ((5, 4, 1), "averaged"), ((0,), "probe")],
)
def test_the_best_is_selected_and_of_equal_ones_the_simpler(wrong, best):
  candidates = [_candidate(name, n) for name, n in zip(("probe", "fine_tuned", "averaged"), wrong)]
  selected = selection.select(candidates, LABELS, TASK)
  assert selected.best.name == best
  assert selected.reason.startswith(formatting.candidate(best)) and "\n" not in selected.reason
  assert selected.metrics["probe"]["accuracy"] == pytest.approx(1 - wrong[0] / 20)
  assert ("did not help" in selected.reason) == (best == "probe" and len(wrong) > 1)


@pytest.mark.parametrize(
  ("wrong", "p", "doubt"), [(3, "0.25", ": 20 examples cannot show a difference below 0.3)"), (8, "0.0078", ")")]
)
def test_the_reason_names_the_p_value_and_what_few_examples_do_not_show(wrong, p, doubt):
  selected = selection.select([_candidate("probe", wrong), _candidate("fine_tuned", 0)], LABELS, TASK)
  assert selected.reason.endswith(f"p = {p}{doubt}")


def test_a_tie_says_how_small_a_difference_the_examples_can_show():
  selected = selection.select([_candidate("probe", 5), _candidate("fine_tuned", 5)], LABELS, TASK)
  assert selected.reason.endswith("probe 0.7500; 20 examples cannot show a difference below 0.3)")
  # Six examples that only one of two models answers are just significant.
  for different, significant in ((6, True), (5, False)):
    assert (statistics.mcnemar(np.arange(20) < different, np.zeros(20, bool)) <= selection.SIGNIFICANT) == significant


@pytest.mark.parametrize(("wrong", "best"), [((2, 0), "probe"), ((3, 0), "fine_tuned"), ((9, 7), "probe")])
def test_a_better_score_within_one_standard_error_is_not_selected(wrong, best):
  selected = selection.select([_candidate("probe", wrong[0]), _candidate("fine_tuned", wrong[1])], LABELS, TASK)
  assert selected.best.name == best
  assert ("less than one standard error" in selected.reason) == (best == "probe")
  # The two-sided probability beyond one standard error of a normal variable.
  assert pytest.approx(2 * scipy.stats.norm.sf(1), abs=0.01) == selection.ONE_STANDARD_ERROR


def test_baselines_are_compared_with_the_selected_candidate():
  compared = selection.compared_with_baselines(
    _candidate("probe", 8), {"tf_idf": _candidate("", 0).logits, "same": _candidate("", 8).logits}, LABELS, TASK
  )
  assert compared["tf_idf"] == {"accuracy": 1.0, "p_value": pytest.approx(2 * 0.5**8)}
  assert compared["same"] == {"accuracy": pytest.approx(0.6), "p_value": 1.0}


@pytest.mark.parametrize(
  ("wrong", "told"),
  [
    (1, "is better than the selected model on the validation split: TF-IDF, accuracy 1.0000 (McNemar"),
    (9, "is significantly better than the selected model"),
  ],
)
def test_a_baseline_that_is_better_by_chance_asks_for_no_other_backbone(caplog, wrong, told):
  data = types.SimpleNamespace(validation=np.arange(20), targets=LABELS)
  features = types.SimpleNamespace(model=types.SimpleNamespace(task=TASK), data=data)
  phases.select([_candidate("probe", wrong)], {"tf_idf": _candidate("", 0).logits}, features, Config())
  (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
  assert told in line
  assert line.endswith("the difference may be chance" if wrong == 1 else "try another --backbone or --recipe")


def test_a_candidate_can_be_asked_for():
  candidates = [_candidate("probe", 5), _candidate("fine_tuned", 9)]
  selected = selection.select(candidates, LABELS, TASK, "fine_tuned")
  assert selected.best.name == "fine_tuned" and "by --select=fine_tuned" in selected.reason
  assert selection.select(candidates, LABELS, TASK, "averaged").best.name == "probe"


def test_mcnemar_counts_the_examples_that_one_of_two_models_gets_right():
  right, other = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1], bool), np.array([0, 0, 0, 1, 0, 0, 0, 1, 1], bool)
  assert statistics.mcnemar(right, other) == pytest.approx(scipy.stats.binomtest(5, 6, 0.5).pvalue)
  assert statistics.mcnemar(right, right) == 1.0


def test_baseline_scores_need_no_training():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 2, 200)
  features = rng.normal(size=(200, 4)) + 3 * labels[:, None] * np.array([1, 0, 0, 0])
  outputs = selection.baselines(features[:150], labels[:150], features[150:], TASK)
  scores = {name: TASK.metrics.score(found, labels[150:]) for name, found in outputs.items()}
  assert scores["majority_class"] == pytest.approx(np.mean(labels[150:] == np.bincount(labels[:150]).argmax()))
  assert scores["nearest_neighbours"] > 0.8


@pytest.mark.parametrize(
  ("name", "labels"), [("single_label", "ab"), ("multi_label", ["x", "x,y"]), ("regression", "14")]
)
def test_counts_of_words_are_a_baseline_of_each_task(name, labels):
  texts = [f"{'good' if number % 2 else 'bad'} thing {number % 7}" for number in range(60)]
  cells = [labels[number % 2] for number in range(60)]
  task = tasks.TASKS[name].configure(Config(), cells).fit(cells)
  targets = task.codec.targets(cells)
  train, validation = (Inputs.of("text", texts[rows]) for rows in (slice(40), slice(40, None)))
  found = modalities.of("text").plain_features(train, validation)
  outputs = selection.plain_baseline(found, targets[:40], task)
  assert task.metrics.score(outputs, targets[40:]) > 0.9
  assert modalities.of("text").plain_features(Inputs.of("text", ["!", "?"]), validation) is None


def test_entities_have_no_baseline_of_words():
  task = tasks.TASKS["token_classification"]
  assert selection.plain_baseline((np.ones((2, 1)), np.ones((2, 1))), np.ones(2), task) is None


def test_the_best_of_several_phases_is_the_first_with_the_highest_score():
  candidates = [_candidate(name, wrong) for name, wrong in (("unfreeze_1", 3), ("unfreeze_2", 1), ("unfreeze_3", 1))]
  assert selection.better(candidates, LABELS, TASK).name == "unfreeze_2"


@pytest.mark.parametrize("size", [20, 40])
def test_groups_that_are_too_small_do_not_decide(size, caplog):
  labels = strings(["a", "b"] * size)
  examples = Examples(labels, Inputs.of("text", labels), *[labels] * 3, skipped=[], source="texts")
  examples = dataclasses.replace(examples, groups=strings("xy"[i >= size] for i in range(2 * size)))
  targets, rows = np.tile([0, 1], size), np.arange(2 * size)
  wrong = {"probe": rows % 4 == 0, "fine_tuned": (rows >= size) & (rows % 3 > 0)}
  candidates = [
    selection.Candidate(name, np.eye(2)[targets ^ flips], [], name, rows=rows) for name, flips in wrong.items()
  ]
  data = types.SimpleNamespace(examples=examples, targets=targets, validation=rows)
  features = types.SimpleNamespace(
    data=data, model=types.SimpleNamespace(task=SINGLE_LABEL.with_codec(names=("a", "b")))
  )
  selected = selection.of_run(candidates, features, Config(select_metric="worst_group"))
  assert ("worst_group" in selected.metrics["probe"]) == (size >= 30) == ("primary metric decides" not in caplog.text)
