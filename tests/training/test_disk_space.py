"""The disk space of a run is checked before it trains."""

import shutil
import types

import pytest

from tl_app.errors import UserError
from tl_app.training import disk_space

NEEDED = {"weights": 4e9, "candidates": 2e9, "export": 4e9}


def _free(monkeypatch, size):
  monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=size))


def test_a_run_that_does_not_fit_is_refused(tmp_path, monkeypatch):
  _free(monkeypatch, 11.1e9)
  disk_space.check(tmp_path, NEEDED)
  _free(monkeypatch, 10.9e9)
  with pytest.raises(UserError) as caught:
    disk_space.check(tmp_path, NEEDED)
  assert str(caught.value) == (
    f"--workdir={tmp_path} needs about 11.0 GB of disk space (weights 4.0 GB, candidates 2.0 GB, export 4.0 GB), and "
    "10.9 GB are free: free some, or choose another directory, or use --noexport, which needs 4.4 GB less"
  )
  _free(monkeypatch, 6e9)
  with pytest.raises(UserError, match="are free: free some, or choose another directory$"):
    disk_space.check(tmp_path, NEEDED)
