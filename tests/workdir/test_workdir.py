"""A workdir holds one run, and nothing of the user's is overwritten."""

import dataclasses

import pytest

from tl_app import files, workdir
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.workdir import locking, record

CONFIG = Config(workdir="w", backbone="resnet50", dataset="digits")


def _finish(root, config=CONFIG):
  with workdir.claim(root, config) as paths:
    files.write_json(paths.metrics, {"selected": "probe"})
  return paths


def test_a_finished_run_of_other_flags_is_kept(tmp_path):
  paths = _finish(tmp_path / "run")
  with (
    pytest.raises(UserError, match="holds another run .--epochs: 0 there, 9 here.: repeat its flags"),
    workdir.claim(paths.root, dataclasses.replace(CONFIG, epochs=9)),
  ):
    pass
  assert files.read_json(paths.metrics) == {"selected": "probe"}


def test_the_same_flags_run_again_and_an_unfinished_run_is_replaced(tmp_path):
  paths = _finish(tmp_path)
  with workdir.claim(tmp_path, CONFIG):
    assert not paths.metrics.exists()
  with workdir.claim(tmp_path, dataclasses.replace(CONFIG, epochs=9)):
    assert '"epochs": 9' in paths.config.read_text()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_finished_run_outlives_a_second_one_that_ends_early(tmp_path, error):
  paths = _finish(tmp_path)
  with pytest.raises(error), workdir.claim(tmp_path, CONFIG):
    files.write_json(paths.plan, {"half": "written"})
    raise error
  assert files.read_json(paths.metrics) == {"selected": "probe"} and paths.config.is_file()
  assert not paths.plan.exists() and not paths.earlier.exists()


def test_a_finished_run_outlives_a_second_one_that_is_killed(tmp_path):
  paths = _finish(tmp_path)
  # What a killed process leaves.
  locking._move_aside(paths)
  files.write_text(paths.config, "{}")
  with pytest.raises(UserError, match="a second run is in progress there, or was killed"):
    workdir.open_run(tmp_path)
  with (
    pytest.raises(UserError, match=f"--workdir={tmp_path} holds another run"),
    workdir.claim(tmp_path, dataclasses.replace(CONFIG, epochs=9)),
  ):
    pass
  with pytest.raises(OSError, match="disk"), workdir.claim(tmp_path, CONFIG):
    raise OSError("disk")
  assert files.read_json(paths.metrics) == {"selected": "probe"}
  assert not paths.earlier.exists()


def test_foreign_files_are_refused(tmp_path):
  (tmp_path / "thesis.tex").write_text("years of work")
  with pytest.raises(UserError, match="holds no run of tl_app"), workdir.claim(tmp_path, CONFIG):
    pass
  assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_do_not_share_a_workdir(tmp_path):
  with workdir.claim(tmp_path, CONFIG), pytest.raises(UserError, match="in use"), workdir.claim(tmp_path, CONFIG):
    pass


def test_an_unfinished_run_cannot_be_opened(tmp_path):
  with pytest.raises(UserError, match="holds no finished run: plan.json is missing"):
    _finish(tmp_path)
    workdir.open_run(tmp_path)


def test_atomic_path_leaves_the_old_file_when_the_block_fails(tmp_path):
  target = tmp_path / "metrics.json"
  files.write_json(target, {"a": 1})
  with pytest.raises(ZeroDivisionError), files.atomic_path(target) as new:
    new.write_text("half")
    1 / 0  # noqa: B018
  assert files.read_json(target) == {"a": 1}
  assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_atomic_path_replaces_a_directory_as_a_whole(tmp_path):
  target = tmp_path / "export"
  for content in ("one", "two"):
    with files.atomic_path(target) as new:
      new.mkdir()
      (new / content).write_text(content)
  assert [path.name for path in target.iterdir()] == ["two"]


def test_the_time_of_a_clock_inside_another_counts_for_the_inner_one(monkeypatch):
  now = iter([0.0, 1.0, 4.0, 10.0, 20.0, 21.0])
  monkeypatch.setattr(record.time, "monotonic", lambda: next(now))
  clock = workdir.Clock(["export"])
  with clock("train"), clock("features"):
    pass
  with clock("train"):
    pass
  assert clock.seconds == {"export": 0.0, "train": 8.0, "features": 3.0}


def test_a_record_writes_each_file_with_its_format_number(tmp_path):
  run = workdir.Record(workdir.Workdir(tmp_path))
  run.note("input", {"share": 0.5})
  assert not run.paths.plan.exists()
  run.write_plan({"phases": []})
  run.note("batch_size", {"examples": 8})
  plan = {"format": 1, "phases": [], "input": {"share": 0.5}, "batch_size": {"examples": 8}}
  assert files.read_json(run.paths.plan) == plan
  writers = {
    run.paths.splits: run.write_splits,
    run.paths.findings: run.write_findings,
    run.paths.task: run.write_task,
    run.paths.metrics: run.write_metrics,
  }
  for path, write in writers.items():
    write({"key": path.name})
    assert files.read_json(path) == {"format": workdir.FORMAT, "key": path.name}
    assert workdir.read(path) == {"key": path.name}
  run.log_epoch({"epoch": 1})
  run.log_epoch({"epoch": 2})
  assert run.paths.log.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


def test_a_file_of_a_newer_format_is_refused(tmp_path):
  files.write_json(tmp_path / "plan.json", {"format": 2})
  with pytest.raises(UserError, match="has format 2, and this tl_app reads format 1: update tl_app"):
    workdir.read(tmp_path / "plan.json")


@pytest.mark.parametrize("error", [OSError("disk"), UserError("flag"), KeyboardInterrupt()])
def test_a_run_that_is_measured_survives_a_failure_after_that(tmp_path, error):
  with pytest.raises(type(error)), workdir.claim(tmp_path, CONFIG) as paths:
    files.write_json(paths.metrics, {"selected": "probe"})
    raise error
  assert files.read_json(paths.metrics) == {"selected": "probe"} and not paths.earlier.exists()


def test_json_has_a_list_of_numbers_on_a_line(tmp_path):
  value = {"matrix": [[1, 2.5], [0, 0]], "none": [], "names": ["é", None], "flags": [True], "deep": [{"a": {}}]}
  files.write_json(tmp_path / "v.json", value)
  assert files.read_json(tmp_path / "v.json") == value
  assert "    [1, 2.5],\n    [0, 0]\n" in (tmp_path / "v.json").read_text(encoding="utf-8")
  with pytest.raises(ValueError, match="JSON"):
    files.write_json(tmp_path / "v.json", {"a": [float("nan")]})
  assert files.read_json(tmp_path / "v.json") == value
