"""The plain sentences of the first screen, for every task, and how they follow the metrics."""

import json
import types

import numpy as np
import pytest

from tl_app import config as config_lib
from tl_app import files, tasks
from tl_app.config.groups import AnswerConfig
from tl_app.report import facts as facts_lib
from tl_app.report import first_screen, predictions
from tl_app.report.sections import certainty, errors
from tl_app.report.sections.section import QUESTIONS
from tl_app.tasks import SINGLE_LABEL, wording

ANIMALS = ("ant", "bee", "cat")
NUMBERS = range(300)
LABELS = {
  "single_label": [ANIMALS[number % 3] for number in NUMBERS],
  "multi_label": [",".join(ANIMALS[: 1 + number % 3]) for number in NUMBERS],
  "regression": [str(number / 10) for number in NUMBERS],
  "token_classification": [("O B-place I-place", "B-person O O", "O O B-place")[number % 3] for number in NUMBERS],
}


def answers(directory, name, skill=2.0, coverage=0.0, **files_of_run):
  """Writes the files of a run whose logits are the truth times `skill` plus noise, and returns its answers."""
  config, labels = config_lib.Config(coverage=coverage), LABELS[name]
  task = tasks.TASKS[name].configure(config, labels).fit(labels)
  targets = task.codec.targets(labels)
  perfect = task.codec.as_probabilities(targets)
  logits = np.random.default_rng(0).normal(size=perfect.shape) + skill * perfect
  task = task.calibrate(logits, targets, AnswerConfig(coverage=coverage))
  metrics = {"test": task.metrics.compute_metrics(logits, targets), "task": name}
  metrics |= {"primary_metric": task.metrics.primary_metric} | task.metrics.baseline(targets, targets)
  outputs = task.answers.outputs(logits)
  rows = task.answers.rows([f"row:{number}" for number in NUMBERS], labels, outputs)
  more = task.answers.more_cells(outputs)
  predictions.write(directory / "predictions_test.csv", task.answers.columns, rows, more)
  files.write_json(directory / "metrics.json", metrics | files_of_run.pop("metrics", {}))
  files.write_text(directory / "config.json", config_lib.to_json(config))
  for stem, content in files_of_run.items():
    files.write_json(directory / f"{stem}.json", content)
  facts = facts_lib.read(directory)
  return facts, first_screen.answers(facts)


@pytest.mark.parametrize("name", LABELS)
def test_five_questions_are_answered_for_every_task(tmp_path, name):
  facts, found = answers(tmp_path, name, coverage=0.9)
  assert list(found) == list(QUESTIONS.values())
  sentences = [text for several in found.values() for text in several]
  assert all(text[0].isupper() or text[0].isdigit() for text in sentences), sentences
  assert all(text.endswith(".") and "nan" not in text and "_" not in text for text in sentences), sentences
  assert json.dumps(facts.metrics, allow_nan=False)
  worst = errors.SECTION.context(facts)
  assert worst["error_columns"][:2] == ["label", "prediction"] and not {*worst["error_columns"]} & {*predictions.MORE}
  assert name != "regression" or all(len(row["prediction"].partition(".")[2]) <= 3 for row in worst["errors"].worst)


def test_sentences_about_single_labels_are_those_of_the_metrics(tmp_path):
  facts, found = answers(tmp_path, "single_label")
  test = facts.test
  right = round(100 * test["accuracy"])
  assert facts.task.metrics.headline(test) == f"{right} of 100 right"
  quality, comparison, certainty, failures, _ = found.values()
  assert quality[0].startswith(f"{right} of 100 answers are right.")
  assert comparison == [f"Yes: {right} of 100 right, against 33 of 100 of always answering the majority class."]
  share, lowest, wrong = [point for point in test["risk_coverage"]["points"] if point[1] >= 0.9][-1]
  assert f"at least {int(100 * lowest)} % sure, {wording.of_hundred(1 - wrong)} answers are right" in certainty[0]
  assert certainty[0].endswith(f"is the case for {round(100 * share)} of 100 examples.")
  worst = min(test["per_class"], key=lambda key: test["per_class"][key]["f1"])
  assert f"“{worst}”" in failures[0] or failures[0].startswith("All classes are about equally hard")
  assert "is answered as" in failures[1]


def test_a_model_that_guesses_is_not_called_better(tmp_path):
  simple = {"candidates": {"nearest_neighbours": {"accuracy": 0.5}, "probe": {"accuracy": 0.4, "loss": 1.0}}}
  _, found = answers(tmp_path, "single_label", 0.0, metrics=simple | {"validation": {"accuracy": 0.4}})
  comparison = found[QUESTIONS["comparison"]]
  assert comparison[0].startswith(("No: ", "Not clearly: "))
  assert comparison[1].startswith("It is not better than the best simple method, nearest neighbours: accuracy 0.40")


def test_a_simple_method_is_compared_on_the_same_examples(tmp_path):
  scores = {"nearest_neighbours": {"accuracy": 1.0}, "probe": {"accuracy": 1.0, "loss": 1.0}}
  metrics = {"candidates": scores, "selected_candidate": "probe", "validation": {"accuracy": 0.98, "folds": 5}}
  _, found = answers(tmp_path, "single_label", metrics=metrics)
  assert found[QUESTIONS["comparison"]][1].startswith("It is as good as the best simple method, nearest neighbours:")


def test_the_next_steps_name_faults_of_the_data_and_classes_with_few_examples(tmp_path):
  fault = {"meaning": "contents with several labels", "count": 7, "advice": "keep one label for each"}
  findings = [fault | {"severity": "info"}, fault | {"severity": "serious", "count": 9}]
  counts = {"train": {"ant": 5, "bee": 90, "cat": 90}}
  facts, found = answers(tmp_path, "single_label", 1.0, findings={"findings": findings}, splits={"counts": counts})
  steps = found[QUESTIONS["next"]]
  assert "Data: contents with several labels (9); keep one label for each." in steps
  assert not any("(7)" in text for text in steps)
  worst = min(ANIMALS, key=lambda name: facts.test["per_class"][name]["f1"])
  assert any("training examples" in text for text in steps) == (worst == "ant")


@pytest.mark.parametrize(
  ("share", "text"),
  [
    (0.0, "0 of 100"),
    (0.0001, "fewer than 1 of 1,000"),
    (0.003, "3 of 1,000"),
    (0.956, "96 of 100"),
    (0.997, "997 of 1,000"),
    (0.9999, "more than 999 of 1,000"),
    (1.0, "100 of 100"),
  ],
)
def test_shares_near_the_ends_are_not_rounded_to_none_or_all(share, text):
  assert wording.of_hundred(share) == text


def test_few_answers_are_counted():
  """100 of 100 would claim more than 11 examples can show."""
  facts = types.SimpleNamespace(
    risk_coverage={"points": [(5 / 11, 0.95, 0.0), (1.0, 0.5, 1 / 11)]},
    task=SINGLE_LABEL,
    test={"num_examples": 11},
  )
  sure, others = certainty._selective(facts)
  assert "5 of 5 answers are right; this is the case for 5 of 11 examples." in sure
  assert others == "Of the other answers 5 of 6 are right."


def test_few_examples_of_a_class_and_few_answers_of_it_are_counted():
  """The first has 16 examples, of which 15 are found; the second is answered 17 times, 16 times rightly."""
  rows = {
    "refund": {"precision": 1.0, "recall": 15 / 16, "f1": 0.968, "support": 16},
    "card": {"precision": 16 / 17, "recall": 1.0, "f1": 0.970, "support": 16},
  }
  assert wording.of_class(rows["refund"]) == ("15 of 16", "15 of 15")
  assert wording.of_class(rows["card"]) == ("16 of 16", "16 of 17")
  test = {"accuracy": 31 / 32, "num_examples": 32, "per_class": {**rows, "rate": rows["card"] | {"f1": 0.5}}}
  worst = SINGLE_LABEL.metrics.describe_failures(test)[0]
  assert worst == "Worst at “rate”: it finds 16 of 16 of these; of its answers “rate” 16 of 17 are right."
  told = SINGLE_LABEL.metrics.describe_against(test, {"majority_accuracy": 0.5})
  assert told.startswith("31 of 32 right, against 16 of 32 of always")


def test_the_mean_size_of_prediction_sets_is_that_of_the_terminal():
  sets = {"measured": 0.9375, "coverage": 0.95, "mean_size": 0.95}
  facts = types.SimpleNamespace(
    risk_coverage=None, task=SINGLE_LABEL, config={"coverage": 0.95}, test={"num_examples": 80, "prediction_sets": sets}
  )
  assert "Its mean size is 0.95 classes." in certainty._answers(facts)["certainty"][0]
