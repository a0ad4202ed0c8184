"""A workdir holds one run, and nothing of the user's is overwritten."""

import dataclasses

import pytest

from tl_app import files, workdir
from tl_app.config import Config
from tl_app.errors import UserError

CONFIG = Config(workdir="w", backbone="resnet50", dataset="digits")


def _finish(root, config=CONFIG):
  with workdir.claim(root, config) as paths:
    files.write_json(paths.metrics, {"rung": "probe"})
  return paths


def test_a_finished_run_of_other_flags_is_kept(tmp_path):
  paths = _finish(tmp_path / "run")
  with (
    pytest.raises(UserError, match="holds another run .--epochs=0"),
    workdir.claim(paths.root, dataclasses.replace(CONFIG, epochs=9)),
  ):
    pass
  assert files.read_json(paths.metrics) == {"rung": "probe"}


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
  assert files.read_json(paths.metrics) == {"rung": "probe"} and paths.config.is_file()
  assert not paths.plan.exists() and not paths.earlier.exists()


def test_a_finished_run_outlives_a_second_one_that_is_killed(tmp_path):
  paths = _finish(tmp_path)
  # What a killed process leaves.
  workdir._set_aside(paths)
  files.write_text(paths.config, "{}")
  with pytest.raises(UserError, match="a second run is going on there, or was killed"):
    workdir.open_run(tmp_path)
  with (
    pytest.raises(UserError, match=f"--workdir={tmp_path} holds another run"),
    workdir.claim(tmp_path, dataclasses.replace(CONFIG, epochs=9)),
  ):
    pass
  with pytest.raises(OSError, match="disk"), workdir.claim(tmp_path, CONFIG):
    raise OSError("disk")
  assert files.read_json(paths.metrics) == {"rung": "probe"}
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
