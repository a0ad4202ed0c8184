"""A file that is not what tl_app wrote is found when it is opened."""

import contextlib
import logging

import pytest

from tl_app import config as config_lib
from tl_app import files, workdir
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.files import checksums
from tl_app.workdir import Record, Workdir

CONFIG = Config(workdir="w", backbone="minilm_l6.pypi", dataset="table:there/mails.csv", seed=3)


@pytest.fixture
def run(tmp_path):
  """A `Workdir` with the files of a finished run and an export."""
  paths = Workdir(tmp_path / "run")
  files.write_text(paths.config, config_lib.to_json(CONFIG))
  record = Record(paths)
  record.write_plan({"phases": []})
  record.write_task({"name": "single_label"})
  for path in (paths.weights, paths.candidate("probe") / "weights.npz", paths.predictions):
    files.write_text(path, f"the content of {path.name}")
  record.write_metrics({"selected": "probe"})
  with record.replaced(paths.export):
    _export(paths.export)
  return paths


def _export(directory):
  names = ("saved_model.pb", "variables/variables.index")
  for name in names:
    files.write_text(directory / name, name)
  checksums.write(directory, [directory / name for name in names])


def _flip(path):
  """Changes one bit of a file."""
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(bytes(content))


@pytest.mark.parametrize(
  "name", ["config.json", "plan.json", "metrics.json", "predictions_test.csv", "checkpoints/model.weights.h5",
           "checkpoints/task.json", "checkpoints/probe/weights.npz"]
)  # fmt: skip
def test_one_bit_in_a_file_of_a_run_is_found(run, name):
  assert workdir.verified(run.root / name) == run.root / name
  _flip(run.root / name)
  with pytest.raises(UserError, match=f"{name} was changed or damaged since tl_app wrote it: put back"):
    workdir.verified(run.root / name)


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index", "checksums.json"])
def test_one_bit_in_a_directory_is_found_there_and_where_it_was_copied(run, name, tmp_path):
  checksums.verify_all(run.export, "export again")
  copy = (run.root / "export").rename(tmp_path / "copy") if name != "checksums.json" else run.export
  _flip(copy / name)
  with pytest.raises(UserError, match=f"{name} (was changed or damaged .*: export again|is damaged)"):
    checksums.verify_all(copy, "export again")


def test_files_that_are_written_again_and_files_of_the_user_are_no_damage(run):
  record = Record(run)
  record.write_metrics({"selected": "fine_tuned"})
  with record.replaced(run.export):
    _flip(run.export / "saved_model.pb")
    _export(run.export)
  (run.export / "README.md").write_text("for our team")
  checksums.verify_all(run.export, "export again")
  assert workdir.read(run.metrics) == {"selected": "fine_tuned"}


def test_a_killed_process_leaves_no_wrong_checksum(run):
  with contextlib.suppress(KeyboardInterrupt), Record(run).replaced(run.metrics):
    files.write_text(run.metrics, '{"selected": "averaged"}')
    raise KeyboardInterrupt
  assert workdir.read(run.metrics) == {"selected": "averaged"}


def test_a_path_in_config_json_may_be_corrected_and_a_setting_may_not(run):
  text = run.config.read_text()
  run.config.write_text(text.replace("there/mails.csv", "here/mails.csv"))
  assert workdir.open_run(run.root)[1].dataset == "table:here/mails.csv"
  for old, new in (('"seed": 3', '"seed": 4'), ("minilm_l6.pypi", "minilm_l7.pypi")):
    run.config.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"config.json was changed or damaged"):
      workdir.open_run(run.root)


def test_a_run_of_an_earlier_version_is_read_and_the_log_says_so_once(run, caplog):
  run.checksums.unlink()
  _flip(run.weights)
  with caplog.at_level(logging.INFO, logger="tl_app"):
    workdir.open_run(run.root)
    workdir.open_run(run.root)
  assert [line for line in caplog.messages if "has no checksums.json" in line] == [
    f"{run.root} has no checksums.json, as an earlier tl_app wrote it: its files are read without a check"
  ]


def test_checksums_that_cannot_be_read_are_an_error(run):
  run.checksums.write_text('{"format": 1, "files": []}')
  with pytest.raises(UserError, match="checksums.json is damaged: put back a copy of it, or delete it"):
    workdir.open_run(run.root)
  files.write_json(run.checksums, {"format": 2})
  with pytest.raises(UserError, match="has format 2, and this tl_app reads format 1"):
    workdir.open_run(run.root)


def test_a_file_that_is_gone_is_named(run):
  (run.export / "saved_model.pb").unlink()
  with pytest.raises(UserError, match="saved_model.pb is missing: export again"):
    checksums.verify_all(run.export, "export again")
