"""The journal of a search: processes share it, and after a kill no trial is lost or doubled."""

import multiprocessing
import os
import signal
import time

import pytest

from tl_app.commands.searching import study as study_lib
from tl_app.commands.searching.study import Study, Workers
from tl_app.errors import UserError


def suggest(trial):
  return {"learning_rate": trial.suggest_float("learning_rate", 0.0, 1.0)}


def opened(root, method="random", pruning="none", seed=0):
  workers = Workers(root)
  return Study(root, "fine_tuning", workers, method, pruning, seed), workers


def work(root, most, pause=0.0):
  study, workers = opened(root)
  while trial := study.ask(most, suggest):
    time.sleep(pause)
    trial.complete(trial.values["learning_rate"], {"worker": os.getpid()})
  workers.close()


def test_processes_share_the_trials(tmp_path):
  context = multiprocessing.get_context("fork")
  processes = [context.Process(target=work, args=(tmp_path, 12, 0.01)) for _ in range(3)]
  for process in processes:
    process.start()
  for process in processes:
    process.join(60)
  rows = opened(tmp_path)[0].rows()
  assert [row.number for row in rows] == list(range(12))
  assert all(row.state == "complete" for row in rows)
  assert len({row.score for row in rows}) == 12
  assert len({row.facts["worker"] for row in rows}) > 1


def test_trials_of_a_killed_process_are_taken_up_once(tmp_path):
  study, workers = opened(tmp_path)
  process = multiprocessing.get_context("fork").Process(target=work, args=(tmp_path, 5, 30.0))
  process.start()
  deadline = time.monotonic() + 30
  while not study.are_others_running() and time.monotonic() < deadline:
    time.sleep(0.05)
  assert study.are_others_running() and not study.has_left_over()
  begun = study.rows()[0].values
  os.kill(process.pid, signal.SIGKILL)
  process.join()
  assert study.has_left_over() and not study.are_others_running()
  trial = study.ask(5, suggest)
  assert trial.taken_up and trial.name == "fine_tuning-0" and trial.values == begun
  following = study.ask(5, suggest)
  assert not following.taken_up and following.name == "fine_tuning-1"
  trial.complete(0.5, {})
  following.complete(0.25, {})
  workers.close()
  work(tmp_path, 5)
  rows = opened(tmp_path)[0].rows()
  assert [(row.number, row.state) for row in rows] == [(i, "complete") for i in range(5)]


def test_a_half_written_line_is_no_obstacle(tmp_path):
  work(tmp_path, 2)
  journal = tmp_path / study_lib.JOURNAL
  whole = journal.read_bytes()
  journal.write_bytes(whole + b'{"op_code": 4, "wor')
  work(tmp_path, 4)
  assert [row.state for row in opened(tmp_path)[0].rows()] == ["complete"] * 4
  assert journal.read_bytes().startswith(whole)


def test_a_damaged_journal_is_one_line(tmp_path):
  work(tmp_path, 2)
  journal = tmp_path / study_lib.JOURNAL
  whole = journal.read_bytes()
  for damaged in (whole.replace(b"op_code", b"op_cod_", 1), b"[]\n" + whole, whole.replace(b"{", b"#", 2)):
    journal.write_bytes(damaged)
    with pytest.raises(UserError, match="trials.journal is damaged: put back a copy of it, or delete the directory"):
      opened(tmp_path)


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_the_values_do_not_depend_on_interruptions(tmp_path, method):
  def values(root, stops):
    root.mkdir()
    found = []
    for most in stops:
      study, workers = opened(root, method)
      while trial := study.ask(most, suggest):
        trial.complete(-abs(trial.values["learning_rate"] - 0.3), {})
      found = [row.values["learning_rate"] for row in study.rows()]
      workers.close()
    return found

  whole = values(tmp_path / "whole", [10])
  assert values(tmp_path / "parts", [3, 4, 10]) == whole
  assert len(set(whole)) == 10


def test_given_trials_come_first_and_once(tmp_path):
  study, workers = opened(tmp_path, "grid")
  for _ in range(2):
    study.enqueue("grid", [{"learning_rate": 0.1}, {"learning_rate": 0.2}])
  found = []
  while trial := study.ask(10, suggest):
    found.append(trial.values["learning_rate"])
    trial.complete(0.0, {})
  assert found == [0.1, 0.2]


def test_equal_values_are_not_measured_twice(tmp_path):
  study, _ = opened(tmp_path)

  def one_of_two(trial):
    return {"layer_decay": trial.suggest_categorical("layer_decay", [0.5, 1.0])}

  measured = []
  while trial := study.ask(6, one_of_two):
    if trial.same_as:
      trial.copy()
    else:
      measured.append(trial.values["layer_decay"])
      trial.complete(trial.values["layer_decay"], {"candidate": "probe", "seconds": 9.0})
  assert sorted(measured) == [0.5, 1.0]
  copies = [row for row in study.rows() if "same_as" in row.facts]
  assert copies and all(row.score == row.values["layer_decay"] and row.facts["seconds"] == 0 for row in copies)


def test_the_best_and_the_failed(tmp_path):
  study, _ = opened(tmp_path)
  assert study.best() is None
  scores = iter([0.3, 0.7, 0.7])
  for score in scores:
    study.ask(9, suggest).complete(score, {})
  study.ask(9, suggest).fail("the loss is not finite", {})
  study.ask(9, suggest).prune({})
  assert study.best().number == 1
  assert [row.state for row in study.rows()] == ["complete"] * 3 + ["failed", "pruned"]
  assert study.rows()[3].reason == "the loss is not finite"


def test_halving_stops_the_worst(tmp_path):
  study, _ = opened(tmp_path, pruning="halving")
  stopped = []
  for score in (0.9, 0.8, 0.7, 0.1, 0.95, 0.2):
    trial = study.ask(9, suggest)
    ended = trial.report(score, 1)
    stopped.append(ended)
    if ended:
      trial.prune({})
    else:
      trial.complete(score, {})
  assert stopped[-1] and stopped[3] and not stopped[4] and not stopped[0]
  assert study.rows()[3].curve == {1: 0.1}


def test_an_epoch_that_was_reported_stays(tmp_path):
  study, _ = opened(tmp_path)
  trial = study.ask(1, suggest)
  trial.report(0.5, 1)
  trial.give_up()
  again = study.ask(1, suggest)
  assert again.taken_up and again.name == trial.name
  again.report(0.6, 1)
  again.report(0.7, 2)
  assert study.rows()[0].curve == {1: 0.5, 2: 0.7}


def test_facts_are_decided_once(tmp_path):
  first, second = opened(tmp_path)[0], opened(tmp_path)[0]
  assert not second.has_fact("base")
  assert first.fact("base", lambda: {"probe_solver": "svm"}) == second.fact("base", dict) == {"probe_solver": "svm"}
  assert second.has_fact("base")


def test_importance_needs_several_trials(tmp_path):
  study, _ = opened(tmp_path)
  assert study.importance() == {}

  def two(trial):
    return suggest(trial) | {"warmup": trial.suggest_float("warmup", 0.0, 0.5)}

  while trial := study.ask(20, two):
    trial.complete(trial.values["learning_rate"] ** 2, {})
    if len(study.rows()) < study_lib.STARTUP_TRIALS:
      assert study.importance() == {}
  shares = study.importance()
  assert shares["learning_rate"] > 0.8 and sum(shares.values()) == pytest.approx(1.0)


def test_equal_scores_show_no_importance(tmp_path):
  study, _ = opened(tmp_path)
  while trial := study.ask(8, suggest):
    trial.complete(0.9667, {})
  assert study.importance() == {}
