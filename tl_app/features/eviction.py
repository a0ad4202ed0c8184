"""Disk space for feature caches: the least recently used caches are deleted to make space for new features."""

import contextlib
import logging
import pathlib
import re
import shutil

import numpy as np

from tl_app.features import disk_cache
from tl_app.features.disk_cache import FeatureCache

log = logging.getLogger(__name__)

# Share of the free disk space that a run may fill.
DISK_SHARE = 0.9
_NAME = re.compile(r"([a-z]+-)?[0-9a-f]{32}")


def needs(cache: FeatureCache, hashes: np.ndarray, sizes: np.ndarray) -> tuple[int, int, bool]:
  """Returns the disk space that features need; equal contents count once.

  Args:
    cache: the `FeatureCache` that is to hold them.
    hashes: [n] content hashes.
    sizes: int [n], bytes of the rows of each example.

  Returns:
    (bytes that are missing in the cache, bytes of all these features, whether the cache is writable).
  """
  hashes, first = np.unique(hashes, return_index=True)
  sizes = sizes[first]
  with cache.locked() as writable:
    missing = cache.missing(hashes)
  if not writable:
    log.info(
      "feature cache: %s may not be written, or its file system has no locks: it is read, and nothing is added; "
      "--feature_cache=DIRECTORY names another one",
      cache.directory,
    )
  return int(sizes[missing].sum()), int(sizes.sum()), writable


def evict(directory: pathlib.Path, missing: int, total: int, limit: float, reserved: float = 0.0) -> bool:
  """Makes space for new features by deleting the caches in the same parent directory, least recently used first.

  Args:
    directory: of the `FeatureCache` that is to hold the features.
    missing: bytes to be added to it.
    total: bytes of all features that are needed from it. Its other rows are deleted if both do not fit.
    limit: largest size in bytes of this cache and the caches beside it together.
    reserved: bytes of the disk that must stay free.

  Returns:
    Whether the features fit into `limit` and on the disk.
  """
  if not missing:
    return True
  size, others = _size(directory), _others(directory)
  directory.parent.mkdir(parents=True, exist_ok=True)
  free = shutil.disk_usage(directory.parent).free - reserved
  if total > limit or missing > DISK_SHARE * (free + sum(others.values())):
    return False
  if size + missing > limit:
    _clear(directory)
    size, missing, free = 0, total, free + size
  for path in list(others):
    if size + missing + sum(others.values()) <= limit and missing <= DISK_SHARE * free:
      break
    if _remove(path):
      removed = others.pop(path)
      free += removed
      log.info("feature cache: %.2f GB of older features are deleted", removed / 1e9)
  return size + missing + sum(others.values()) <= limit and missing <= DISK_SHARE * free


def _others(directory):
  """Returns {path: bytes} of the caches beside `directory`, least recently used first."""
  caches = []
  for path in directory.parent.glob("*"):
    if path != directory and _NAME.fullmatch(path.name):
      # Another run may delete it meanwhile, and a cache that only another user may read is not counted.
      with contextlib.suppress(FileNotFoundError, PermissionError):
        if (path / disk_cache.LOCK).exists():
          caches.append((path.stat().st_mtime, path, _size(path)))
  return {path: size for _, path, size in sorted(caches)}


def _size(directory):
  with contextlib.suppress(FileNotFoundError):
    return sum(path.stat().st_size for path in directory.iterdir())
  return 0


def _clear(directory):
  """Deletes all files of a cache except its lock."""
  with disk_cache.lock(directory):
    for path in directory.iterdir():
      # `files.atomic_path` of a killed run leaves a directory.
      if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
      elif path.name != disk_cache.LOCK:
        path.unlink(missing_ok=True)


def _remove(directory):
  """Deletes a cache unless another process holds it or it belongs to another user; returns whether it is gone."""
  try:
    with disk_cache.lock(directory, wait=False) as held:
      if held:
        shutil.rmtree(directory, ignore_errors=True)
  except OSError as error:
    if not disk_cache.is_denied(error):
      raise
  return not directory.exists()
