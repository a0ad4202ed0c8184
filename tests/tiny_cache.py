"""A small network of features by content hash, and a cache of its features on disk that may be denied."""

import errno

import numpy as np

from tl_app.features import disk_cache

WIDTH = 5
DENIED = [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EROFS, "Read-only file system")]


def hashes():
  """Returns content hashes, object [50]."""
  return np.array([f"{i:064x}" for i in range(50)], dtype=object)


def network(calls):
  """Returns a function from hashes to the function that computes their features; `calls` gets how many each time."""

  def compute(hashes):
    def of(positions):
      calls.append(len(positions))
      return np.array([[int(hashes[i], 16) % 97 + j for j in range(WIDTH)] for i in positions], np.float32)

    return of

  return compute


def read(cache, hashes):
  """Returns (float32 [n, width], bool [n]: which are stored whole) of examples with one position each."""
  starts, counts, _ = cache.find(hashes)
  valid = counts == 1
  rows = np.zeros((len(hashes), cache.width), np.float32)
  rows[valid] = cache.rows()[starts[valid]]
  return rows, valid


def deny(monkeypatch, error, below):
  """Opening anything below the path `below` for writing raises `error` from now on."""

  def guarded(path, mode="r", **kwargs):
    if below in path.parents and mode != "r":
      raise error
    return open(path, mode, **kwargs)

  monkeypatch.setattr(disk_cache, "open", guarded, raising=False)
