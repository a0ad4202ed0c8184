"""The saved state of a run: two generations, damage, what must not change, and what the lock does with it."""

import contextlib
import dataclasses
import itertools
import logging
import os
import pathlib
import shutil

import numpy as np
import pytest

from tl_app import config as config_lib
from tl_app import files, workdir
from tl_app.config import Config
from tl_app.errors import RunFailed, UserError
from tl_app.workdir import locking
from tl_app.workdir import state as state_lib
from tl_app.workdir.state import RunState

CONFIG = Config(workdir="w", backbone="lstm.scratch", dataset="digits")


class Variable:
  """Stands for a Keras variable."""

  def __init__(self, value):
    self._value = np.asarray(value, np.float32)

  def numpy(self):
    return self._value


@pytest.fixture
def run(tmp_path):
  tmp_path.joinpath("run").mkdir()
  return workdir.Workdir(tmp_path / "run")


def _save(run, number, state=None, **parts):
  state = state or RunState(run, CONFIG)
  for name, tree in {"training": {"number": number, "weights": np.full(3, number, np.float32)}, **parts}.items():
    state.set_part(name, tree)
  state.save({"train": float(number)}, [run.log])
  return state


def _numbers(run):
  return sorted(path.name for path in run.resume.iterdir())


def test_the_newest_state_comes_back_with_its_arrays(run):
  state = _save(run, 1)
  assert state.decide("policy", lambda: {"jit": False}) == {"jit": False}
  arrays = {"float": np.arange(6, dtype=np.float32).reshape(2, 3), "seed": np.array([1, 2], np.uint32), "none": None}
  _save(run, 2, state, more=[arrays, {"scalar": np.array(7, np.int64), "empty": np.zeros((0, 4), np.float16)}])
  loaded = RunState.load(run, CONFIG)
  assert loaded.continued and loaded.seconds == {"train": 2.0} and loaded.elapsed > 0
  assert loaded.decide("policy", lambda: pytest.fail("measured again")) == {"jit": False}
  loaded.know([])
  assert loaded.take("training")["number"] == 2
  found, others = loaded.take("more")
  assert found["none"] is None
  for name in ("float", "seed"):
    np.testing.assert_array_equal(found[name], arrays[name])
    assert found[name].dtype == arrays[name].dtype
  assert others["scalar"] == 7 and others["scalar"].shape == () and others["empty"].shape == (0, 4)


def test_a_run_without_a_state_decides_each_time():
  state, numbers = RunState(), iter([1, 2])
  assert [state.decide("policy", lambda: next(numbers)) for _ in range(2)] == [1, 2] and state.decided("policy") is None


def test_two_states_are_kept_and_what_is_half_written_is_removed(run):
  state = _save(run, 1)
  (run.resume / ".new123").mkdir()
  for number in (2, 3, 4):
    _save(run, number, state)
  assert _numbers(run) == ["000003", "000004"]
  state.remove()
  assert not run.resume.exists()


@pytest.mark.parametrize("name", ["arrays.bin", "state.json", "state.json.sha256"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_state_falls_back_to_the_one_before_it(run, caplog, name, damage):
  state = _save(run, 1)
  _save(run, 2, state)
  path = run.resume / "000002" / name
  content = bytearray(path.read_bytes())
  content[len(content) // 3] ^= 4
  path.unlink()
  if damage != "remove":
    path.write_bytes(content if damage == "flip" else content[:-70])
  with caplog.at_level(logging.INFO, "tl_app"):
    loaded = RunState.load(run, CONFIG)
  loaded.know([])
  assert loaded.take("training")["number"] == 1 and _numbers(run) == ["000001"]
  assert "000002 is damaged (" in caplog.text and "the one before it is used" in caplog.text


def test_without_an_undamaged_state_the_run_starts_again(run, caplog):
  state = _save(run, 1)
  _save(run, 2, state)
  for number in _numbers(run):
    (run.resume / number / "arrays.bin").write_bytes(b"")
  assert not RunState.load(run, CONFIG).continued
  assert caplog.messages[-1].endswith("there is no other: the run starts again") and _numbers(run) == []


def test_initial_values_are_not_stored_and_must_not_change(run):
  initial = [Variable(np.arange(1000)), Variable(np.zeros(5))]
  state = RunState(run, CONFIG)
  state.know(initial)
  _save(run, 1, state, variables=[initial[0].numpy(), np.ones(5, np.float32)])
  assert (run.resume / "000001/arrays.bin").stat().st_size < 4 * 1000
  loaded = RunState.load(run, CONFIG)
  loaded.know(initial)
  first, second = loaded.take("variables")
  np.testing.assert_array_equal(first, np.arange(1000))
  np.testing.assert_array_equal(second, np.ones(5))
  # What was read is written again.
  loaded.save({}, [])
  again = RunState.load(run, CONFIG)
  again.know(initial)
  np.testing.assert_array_equal(again.take("variables")[1], np.ones(5))
  with pytest.raises(UserError, match="the weights of --backbone have changed"):
    RunState.load(run, CONFIG).know([Variable(np.ones(1000))])


def test_a_changed_flag_or_version_or_data_is_named(run, monkeypatch):
  state = RunState(run, CONFIG)
  state.agree("train split", "abc", "--dataset=digits: the train split has changed")
  _save(run, 1, state)
  moved = dataclasses.replace(CONFIG, cache_dir="elsewhere", offline=True, resume="fresh", checkpoint_minutes=1.0)
  assert RunState.load(run, moved).continued
  with pytest.raises(
    UserError,
    match=r"unfinished run with other flags \(--epochs: 0 there, 9 here\): .* or --resume=fresh to set it aside",
  ):
    RunState.load(run, dataclasses.replace(CONFIG, epochs=9))
  with pytest.raises(UserError, match="--dataset=digits: the train split has changed: .*--resume=fresh"):
    RunState.load(run, CONFIG).agree("train split", "abd", "--dataset=digits: the train split has changed")
  monkeypatch.setattr(state_lib, "packages", lambda: state_lib.PACKAGES and {"tensorflow": "1.15"})
  with pytest.raises(
    UserError, match="was started with tl_app .*, and None is installed|with tensorflow .* and 1.15 is"
  ):
    RunState.load(run, CONFIG)


def test_files_that_grow_are_cut_to_the_state(run):
  run.log.write_text('{"epoch": 1}\n')
  _save(run, 1)
  with open(run.log, "a") as file:
    file.write('{"epoch": 2}\n')
  later = run.tensorboard / "full/train/events.out.tfevents.1"
  later.parent.mkdir(parents=True)
  later.write_bytes(b"later")
  RunState.load(run, CONFIG)
  assert run.log.read_text() == '{"epoch": 1}\n' and not later.exists()


def test_a_slow_disk_makes_the_states_rarer(run, monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(state_lib.time, "monotonic", lambda: clock[0])
  monkeypatch.setattr(os, "fsync", lambda number: clock.__setitem__(0, clock[0] + 1))
  state = RunState(run, CONFIG)
  clock[0] = 59.0
  assert not state.is_due(1.0) and not state.is_due(0.0)
  clock[0] = 60.0
  assert state.is_due(1.0)
  _save(run, 1, state)
  took = clock[0] - 60.0
  clock[0] += took / state_lib.SHARE - 1
  assert took >= 3 and not state.is_due(1.0)
  clock[0] += 1
  assert state.is_due(1.0)


def _unfinished(root, error=KeyboardInterrupt, config=CONFIG):
  with pytest.raises(error), workdir.resumable(root, config) as record:
    record.log_epoch({"epoch": 1})
    record.save_state()
    record.log_epoch({"epoch": 2})
    raise error
  return record.paths


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ZeroDivisionError])
def test_an_interrupted_run_continues_with_its_files(tmp_path, error):
  paths = _unfinished(tmp_path, error)
  with workdir.resumable(tmp_path, CONFIG) as record:
    assert record.state.continued and paths.log.read_text() == '{"epoch": 1}\n'
    assert "checkpoints" in record.seconds
  assert not paths.resume.exists() and not paths.earlier.exists()


@pytest.mark.parametrize("error", [RunFailed, UserError, NotADirectoryError])
def test_a_run_that_would_fail_again_does_not_continue(tmp_path, error):
  paths = _unfinished(tmp_path, error)
  assert not paths.resume.exists()


def test_a_run_that_must_not_continue_is_left_as_it_is_or_set_aside(tmp_path, caplog):
  paths = _unfinished(tmp_path)
  other = dataclasses.replace(CONFIG, epochs=9)
  with pytest.raises(UserError, match="--resume=fresh"), workdir.resumable(tmp_path, other):
    pass
  assert '{"epoch": 2}' in paths.log.read_text() and paths.resume.is_dir()
  with (
    caplog.at_level(logging.INFO, "tl_app"),
    workdir.resumable(tmp_path, dataclasses.replace(other, resume="fresh")) as record,
  ):
    assert not record.state.continued and not paths.log.exists()
  assert '{"epoch": 2}' in (tmp_path / "unfinished-1/log.jsonl").read_text()
  assert f"the unfinished run is set aside in {tmp_path}/unfinished-1" in caplog.text


def test_a_finished_run_is_kept_until_the_one_that_repeats_it_is_finished(tmp_path, caplog):
  with workdir.resumable(tmp_path, CONFIG) as record:
    record.write_metrics({"run": 1})
  with caplog.at_level(logging.INFO, "tl_app"):
    paths = _unfinished(tmp_path)
  assert f"the files of the finished one are in {paths.earlier}" in caplog.text
  # It can be used, and the interrupted one waits.
  assert workdir.read(paths.metrics) == {"run": 1} and not paths.resume.exists() and not paths.earlier.exists()
  with pytest.raises(UserError, match="holds another run"):
    _unfinished(tmp_path, config=dataclasses.replace(CONFIG, epochs=9))
  with workdir.resumable(tmp_path, CONFIG) as record:
    assert record.state.continued
    record.write_metrics({"run": 2})
  assert workdir.read(paths.metrics) == {"run": 2} and not paths.earlier.exists() and not paths.waiting.exists()


def test_after_a_kill_the_finished_run_is_kept_beside_the_one_that_continues(tmp_path):
  with workdir.resumable(tmp_path, CONFIG) as record:
    record.write_metrics({"run": 1})
  paths = record.paths
  locking._move_aside(paths)
  files.write_text(paths.config, config_lib.to_json(CONFIG))
  _save(paths, 1)
  with pytest.raises(UserError, match="a second run is in progress there, or was killed"):
    workdir.open_run(tmp_path)
  with pytest.raises(RunFailed), workdir.resumable(tmp_path, CONFIG) as record:
    assert record.state.continued
    raise RunFailed
  assert workdir.read(paths.metrics) == {"run": 1} and not paths.resume.exists()


def _killed_at(number, root, monkeypatch):
  """Repeats a finished run in a new process that ends without cleaning up at a change of the directory."""
  process = os.fork()
  if process == 0:
    done = itertools.count(1)

    def counted(change):
      def changed(*args, **keywords):
        if next(done) == number:
          os._exit(9)
        return change(*args, **keywords)

      return changed

    for name in ("rename", "mkdir", "rmdir", "unlink"):
      monkeypatch.setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    with contextlib.suppress(BaseException):
      _unfinished(root)
    os._exit(0)
  return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.parametrize("begun", [False, True])
def test_a_finished_run_is_whole_after_a_kill_at_any_moment(begun, tmp_path, monkeypatch):
  whole, kills = tmp_path / "whole", 0
  with workdir.resumable(whole, CONFIG) as record:
    for path in (record.paths.plan, record.paths.report, record.paths.export / "saved_model.pb"):
      files.write_text(path, "of the finished run")
    record.write_metrics({"run": 1})
  if begun:
    # The interrupted run waits beside it.
    _unfinished(whole)
  for number in range(1 + begun, 99, 2):
    root = tmp_path / f"run-{number}"
    shutil.copytree(whole, root)
    if _killed_at(number, root, monkeypatch) != 9:
      break
    kills += 1
    with pytest.raises(RunFailed), workdir.resumable(root, CONFIG):
      raise RunFailed
    paths = workdir.Workdir(root)
    texts = [path.read_text() for path in (paths.plan, paths.report, paths.export / "saved_model.pb")]
    assert texts == ["of the finished run"] * 3 and workdir.read(paths.metrics) == {"run": 1}, number
    assert not any(path.exists() for path in (paths.moving, paths.earlier, paths.waiting))
  assert kills > 10
