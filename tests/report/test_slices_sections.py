"""What the report, its first screen and the terminal tell of slices and of labels that are probably wrong."""

import csv

import numpy as np
from tiny_runs import write_run

from tl_app import files
from tl_app.report import facts, page, slices_text, summary
from tl_app.report.sections import labels, slices
from tl_app.report.slices import columns
from tl_app.report.slices import report as report_lib
from tl_app.tasks import SINGLE_LABEL

TASK = SINGLE_LABEL.fit(["ham", "spam"])


def run_with_slices(root, planted=True):
  """Writes a run of 400 test examples; with `planted` the answers for half of one of ten regions are wrong."""
  metrics = write_run(root, ("ham", "spam"))
  rng = np.random.default_rng(0)
  regions = np.array([f"r{i % 10}" for i in range(400)], dtype=object)
  wrong = (rng.random(400) < 0.5) & (regions == "r3") & planted
  truth = rng.integers(0, 2, 400)
  rows = [{"label": TASK.names[t], "prediction": TASK.names[t ^ int(w)], "score": "0.9"} for t, w in zip(truth, wrong)]
  divisions = [columns.divide("region", regions), columns.divide("sex", ["<f>"] * 380 + ["m"] * 20)]
  metrics["test"]["slices"] = report_lib.report(TASK, divisions, rows)
  metrics["label_review"] = {"test": 2, "train": 0, "not_reviewed": {"train": "python -m tl_app.check"}}
  files.write_json(root / "metrics.json", metrics)
  with open(root / "label_review.csv", "w", newline="") as file:
    header = ("id", "text", "split", "label", "proposed_label", "confidence", "reason", "decision", "content")
    found = [(f"row:{i}", "a <b>", "test", "ham", "spam", "0.9", "the selected model", "", "") for i in range(2)]
    csv.writer(file).writerows([header, *found])
  return metrics


def test_a_worse_slice_is_told_everywhere(tmp_path):
  metrics = run_with_slices(tmp_path)
  line = slices_text.summary(metrics["test"], TASK.metrics)
  assert line.startswith("significantly worse: region = r3 (accuracy 0.")
  assert f"slices            {line}" in summary.lines(metrics, tmp_path)
  found = facts.read(tmp_path)
  assert slices.SECTION.answers(found) == {"failures": [f"{line[0].upper()}{line[1:]}."]}
  text = page.write(tmp_path).read_text()
  assert "Significantly worse than the rest: region = r3. Slices that are worse: 1 of 10." in text
  # Of 400 examples 20 are too few, and so is what they leave of the other.
  assert "which are too few to compare: 2" in text and "sex: &lt;f&gt;" in text


def test_without_a_worse_slice_nothing_is_claimed(tmp_path):
  metrics = run_with_slices(tmp_path, planted=False)
  assert slices_text.summary(metrics["test"], TASK.metrics) == ""
  assert slices.SECTION.answers(facts.read(tmp_path)) == {}
  assert (
    "No slice is significantly worse than the rest; slices that were compared: 10." in page.write(tmp_path).read_text()
  )


def test_the_label_review_is_a_section(tmp_path):
  run_with_slices(tmp_path)
  found = facts.read(tmp_path)
  assert labels.SECTION.answers(found)["next"][0].startswith("2 test labels may be wrong")
  text = page.write(tmp_path).read_text()
  assert "Test split: 2" in text and "the selected model" in text and "--corrections" in text
  assert "Labels of train were not compared with predictions: python -m tl_app.check." in text
  (tmp_path / "label_review.csv").unlink()
  assert "Label review" not in page.write(tmp_path).read_text()
