"""Locks between processes, with file systems that have none."""

import errno
import fcntl

import pytest

from tl_app.files import locks
from tl_app.files.locks import Lock


def test_a_lock_is_held_until_the_file_is_closed(tmp_path):
  path = tmp_path / "lock"
  with open(path, "w") as first, open(path, "w") as second:
    assert locks.acquire(first) is Lock.HELD
    assert locks.acquire(second) is Lock.TAKEN
    first.close()
    assert locks.acquire(second, wait=True) is Lock.HELD


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_may_have_no_locks(tmp_path, monkeypatch, number):
  def flock(file, operation):
    raise OSError(number, "no locks here")

  monkeypatch.setattr(fcntl, "flock", flock)
  with open(tmp_path / "lock", "w") as file:
    assert locks.acquire(file) is Lock.NOT_AVAILABLE
