"""The predictions file: written, read, and its worst errors."""

import csv

import numpy as np
import pytest

from tl_app.report import predictions
from tl_app.tasks import REGRESSION, SINGLE_LABEL, statistics


def write(path, ids, labels, probabilities, class_names):
  task = SINGLE_LABEL.with_codec(names=tuple(class_names))
  predictions.write(path, task.answers.columns, task.answers.rows(ids, labels, probabilities))


def test_rows_have_the_types_of_their_columns():
  row = {"id": "a:1", "label": "1", "prediction": "2", "score": "0.5", "accept": "false", "ood_score": "0.25"}
  found = predictions.typed(row | {"prediction_set": '["1", "2"]', "text": "3"}, has_class_names=True)
  assert found == row | {"score": 0.5, "accept": False, "ood_score": 0.25, "prediction_set": ["1", "2"], "text": "3"}
  row = {"id": "a:1", "size label": "1", "size prediction": "2.5", "size low": "2", "size high": "3", "error": "1.5"}
  assert list(predictions.typed(row, has_class_names=False).values()) == ["a:1", 1.0, 2.5, 2.0, 3.0, 1.5]


def test_predictions_come_back_as_they_were_written(tmp_path):
  path = tmp_path / "predictions_test.csv"
  ids = ["t.tsv:2", 'with,comma "and" quote', "zwei\nZeilen", "bad\udcff.jpg"]
  class_names = ["NA", "ja, doch", "体育"]
  probabilities = statistics.softmax(np.random.default_rng(0).normal(size=(4, 3))).astype(np.float32)
  write(path, ids, ["NA", "体育", "ja, doch", "NA"], probabilities, class_names)
  with open(path, newline="", encoding="utf-8") as file:
    header, *rows = csv.reader(file)
  assert header == ["id", "label", "prediction", "score", "next_label", "next_score"]
  assert [row[0] for row in rows] == [*ids[:3], "bad\\udcff.jpg"]
  assert [row[1] for row in rows] == ["NA", "体育", "ja, doch", "NA"]
  assert [row[2] for row in rows] == [class_names[i] for i in probabilities.argmax(axis=1)]
  np.testing.assert_array_equal(np.array([row[3] for row in rows], np.float32), probabilities.max(axis=1))


def test_a_failing_write_leaves_the_old_predictions(tmp_path):
  path = tmp_path / "predictions_test.csv"
  path.write_text("old")

  def failing():
    yield "first"
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    write(path, failing(), ["a", "b"], np.eye(2), ["a", "b"])
  assert path.read_text() == "old"
  assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_the_worst_errors_are_the_wrong_predictions_with_the_highest_scores(tmp_path):
  path = tmp_path / "predictions_test.csv"
  rows = [("a", "yes", "yes", 0.99), ("b", "yes", "no", 0.6), ("c", "no", "yes", 0.9), ("d", "no", "yes", 0.7)]
  predictions.write(path, SINGLE_LABEL.answers.columns, rows)
  errors = predictions.worst(path, SINGLE_LABEL.answers, most=2)
  assert (errors.wrong, errors.total) == (3, 4)
  assert [row["id"] for row in errors.worst] == ["c", "d"]
  assert predictions.worst(tmp_path / "none.csv", SINGLE_LABEL.answers, most=2) is None


def test_of_numbers_the_largest_errors_are_the_worst(tmp_path):
  path = tmp_path / "predictions_test.csv"
  answers = REGRESSION.with_codec(names=("stars",)).answers
  predictions.write(path, answers.columns, [("a", 1, 3, 2), ("b", 1, 1, 0), ("c", 1, 6, 5)])
  errors = predictions.worst(path, REGRESSION.answers, most=1)
  assert (errors.wrong, errors.total, errors.worst[0]["id"]) == (3, 3, "c")
