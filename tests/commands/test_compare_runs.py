"""compare --workdirs: hand-written runs, the paired test, what changed, and what cannot be compared."""

import csv
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from tl_app import config as config_lib
from tl_app import files, tasks
from tl_app import workdir as workdir_lib
from tl_app.commands import compare_runs
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.report import comparison_page
from tl_app.tasks import statistics

COUNT = 80


def finish(root, right, task=tasks.SINGLE_LABEL, ids=None, labels=None, sexes=None):
  """Writes what a comparison reads of a finished run; `right`: one bool for each example."""
  ids, labels = ids or [f"t.csv:{i}" for i in range(COUNT)], labels or ["ham", "spam"] * (COUNT // 2)
  names = sorted(set(labels))
  task = task.with_codec(names=tuple(names))
  paths = workdir_lib.Workdir(pathlib.Path(root))
  files.write_text(paths.config, config_lib.to_json(Config(workdir=str(root), backbone="tiny", recipe="probe")))
  files.write_text(paths.plan, "{}")
  files.write_text(paths.weights, "")
  files.write_json(paths.task, task.get_config())
  rows = [
    (id, label, label if hit else names[1 - names.index(label)], 0.7, f"text {id}")
    for id, label, hit in zip(ids, labels, right)
  ]
  with open(paths.predictions, "w", newline="") as file:
    csv.writer(file).writerows([("id", "label", "prediction", "score", "text"), *rows])
  files.write_json(paths.metrics, {"test": {"accuracy": float(np.mean(right)), "accuracy_ci95": [0.1, 0.9]}})
  if sexes:
    with open(paths.slices, "w", newline="") as file:
      csv.writer(file).writerows([("id", "sex"), *zip(ids, sexes)])
  return str(root)


def several(root, shifts, labels, mean=0.0):
  """Writes a run of two numbers, whose answers are off by `shifts`."""
  finish(root, [1] * COUNT)
  paths = workdir_lib.Workdir(root)
  task = tasks.REGRESSION.with_codec(names=("height", "width"), mean=(mean, mean), deviation=(1.0, 1.0))
  files.write_json(paths.task, task.get_config())
  rows = zip([f"t.csv:{i}" for i in range(COUNT)], labels, labels + np.array(shifts)[:, None])
  columns = [name for pair in task.codec.columns for name in pair]
  with open(paths.predictions, "w", newline="") as file:
    cells = [(id, *(x for pair in zip(truth, answer) for x in pair), 1) for id, truth, answer in rows]
    csv.writer(file).writerows([("id", *columns, "error"), *cells])
  files.write_json(paths.metrics, {"test": {"r2": 0.5}, "task": "regression"})
  return str(root)


@pytest.fixture
def runs(tmp_path):
  """Two runs: the second fixes 2 examples and breaks 12, all of them of women."""
  sexes = ["f"] * 40 + ["m"] * 40
  first = np.array([0] * 10 + [1] * 70, bool)
  second = first.copy()
  second[:2], second[20:32] = True, False
  return finish(tmp_path / "a", first, sexes=sexes), finish(tmp_path / "b", second, sexes=sexes)


def test_the_paired_test_and_the_changes_are_those_by_hand(runs, tmp_path):
  result = compare_runs.compare(runs, str(tmp_path / "out"))
  (pair,) = result["pairs"]
  assert (pair["fixed"], pair["broken"]) == (2, 12) and pair["difference"] == pytest.approx(-10 / COUNT)
  only_one, only_other = np.array([1] * 12 + [0] * 2, bool), np.array([0] * 12 + [1] * 2, bool)
  assert pair["p_value"] == pair["corrected_p_value"] == statistics.mcnemar(only_one, only_other)
  assert pair["difference_ci95"][0] < -10 / COUNT < pair["difference_ci95"][1] < 0
  example = pair["examples"][0]
  assert example["change"] == "broken" and example["id"] == "t.csv:20" and example["text"] == "text t.csv:20"
  assert example["label"] == "ham" and example["prediction"] == ["ham", "spam"]
  assert [row["value"] for row in pair["slices"]] == ["f", "m"]
  assert pair["slices"][0]["difference"] == pytest.approx(-0.25) and pair["slices"][0]["corrected_p_value"] < 0.05
  assert pair["slices"][1]["difference"] == 0 and pair["slices"][1]["corrected_p_value"] == 1
  assert files.read_json(tmp_path / "out/comparison.json") == {"format": 1, **result}
  with open(tmp_path / "out/changes.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["change"] for row in rows].count("broken") == 12 and len(rows) == 14
  assert {row["id"] for row in rows if row["change"] == "fixed"} == {"t.csv:0", "t.csv:1"}
  page = (tmp_path / "out/comparison.html").read_text()
  assert (
    "Test examples that are answered better: 2, worse: 12." in page
    and "text t.csv:20" in page
    and "<script" not in page
  )
  assert "worse on sex = f" in compare_runs.lines(result)


def test_images_are_shown_as_thumbnails_and_those_that_are_gone_as_paths(tmp_path):
  PIL.Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
  examples = [
    {"id": name, "change": "fixed", "label": "x", "image": str(tmp_path / name)} for name in ("a.png", "gone.png")
  ]
  pair = {"first": "a", "other": "b", "difference": 0.1, "difference_ci95": [0, 0.2], "p_value": 0.5, "test": "t"}
  pair |= {"fixed": 2, "broken": 0, "examples": examples, "slices": []}
  page = comparison_page.html(
    {"task": "single_label", "primary_metric": "accuracy", "num_examples": 9, "runs": [], "pairs": [pair]}
  )
  assert '<img src="data:image/jpeg;base64' in page and f'<td class="text">{tmp_path}/gone.png' in page


def test_p_values_of_several_runs_are_corrected(runs, tmp_path):
  third = finish(tmp_path / "c", [1] * COUNT)
  result = compare_runs.compare([*runs, third])
  first, second = (pair["p_value"] for pair in result["pairs"])
  assert second < first
  assert [pair["corrected_p_value"] for pair in result["pairs"]] == pytest.approx([max(first, 2 * second), 2 * second])
  # Not every run has slices.
  assert result["pairs"][0]["slices"] == []


def test_runs_that_cannot_be_compared(runs, tmp_path):
  first = runs[0]

  def refused(other, first=first):
    with pytest.raises(UserError) as caught:
      compare_runs.compare([first, other], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    return str(caught.value)

  ids = [f"t.csv:{i + 1}" for i in range(COUNT)]
  assert "different test examples (in one of them only: 2, e.g. t.csv:0)" in refused(
    finish(tmp_path / "d", [1] * COUNT, ids=ids)
  )
  labels = ["spam", *["spam", "ham"][:1], *["ham", "spam"] * (COUNT // 2 - 1)]
  assert "different test labels (1 example, e.g. t.csv:0)" in refused(
    finish(tmp_path / "e", [1] * COUNT, labels=labels)
  )
  one = several(tmp_path / "x", [0.5] * COUNT, np.zeros([COUNT, 2]))
  assert "different test labels (80 examples" in refused(
    several(tmp_path / "y", [0.5] * COUNT, np.ones([COUNT, 2])), one
  )
  other_task = finish(tmp_path / "g", [1] * COUNT, task=tasks.IMBALANCED)
  assert "judged by macro F1: these cannot be compared" in refused(other_task)
  assert "give two different runs or more" in refused(first)
  assert "give two different runs or more" in refused(f"{first}/")
  assert "holds no finished run" in refused(str(tmp_path / "none"))


def test_numbers_are_compared_whatever_the_mean_of_the_training_labels(tmp_path):
  rng = np.random.default_rng(0)
  labels, (one, two) = rng.normal(5, 2, [COUNT, 2]), rng.normal(0, 1, [2, COUNT])
  first = several(tmp_path / "a", one, labels)
  same, other = several(tmp_path / "b", two, labels), several(tmp_path / "c", two, labels, mean=100.0)
  found = compare_runs.compare([first, same, other])["pairs"]
  assert found[0]["p_value"] == found[1]["p_value"] and found[0]["difference_ci95"] == found[1]["difference_ci95"]


@pytest.mark.slow
def test_the_command_prints_and_refuses_other_flags(runs):
  command = [sys.executable, "-m", "tl_app.compare", f"--workdirs={runs[0]}, {runs[1]}"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0 and "McNemar's exact test p = 0.013" in done.stdout, done.stderr
  done = subprocess.run([*command, "--epochs=3"], capture_output=True, text=True)
  assert done.returncode == 2 and "--epochs does nothing with --workdirs" in done.stderr
