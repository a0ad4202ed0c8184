"""The cache on disk: its root, manifests, locks, and errors of writing."""

import contextlib
import errno
import logging
import os
import pathlib

from tl_app import files
from tl_app.config.paths import expanded
from tl_app.errors import UserError
from tl_app.files import checksums, locks
from tl_app.files.locks import Lock

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def cache_root(cache_dir: str = "") -> pathlib.Path:
  """Returns the cache directory: `cache_dir`, else $TL_APP_CACHE, else tl_app in the user's cache directory."""
  user = os.environ.get("XDG_CACHE_HOME") or pathlib.Path("~/.cache").expanduser()
  root = pathlib.Path(expanded(cache_dir or os.environ.get("TL_APP_CACHE") or pathlib.Path(user, "tl_app")))
  if root.is_file():
    raise UserError(f"the cache {root} is a file: give a directory, by --cache_dir or $TL_APP_CACHE")
  return root


def write_manifest(path, directory, facts):
  """Writes size and sha256 of every file under `directory`, beside `facts`."""
  found = sorted(file for file in directory.rglob("*") if file.is_file())
  files.write_json(path, {**facts, "files": checksums.of(directory, found)})


def read_manifest(path):
  """Returns the manifest at `path`, or {} if it cannot be read."""
  try:
    manifest = files.read_json(path)
  except (OSError, ValueError):
    return {}
  return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else {}


def damage(directory, manifest, members=()):
  """Returns how the files under `directory` differ from `manifest`, or ""."""
  if not manifest:
    return "its manifest is missing"
  for name, entry in manifest["files"].items():
    fault = checksums.fault(directory / name, entry)
    if fault:
      return f"{name} {fault}"
  return "" if set(members) <= set(manifest.get("keep", ())) else "more of its files are needed"


def where(directory, damage):
  return f"is damaged in {directory} ({damage})" if directory.exists() else f"is not in the cache {directory}"


@contextlib.contextmanager
def locked(root, name, what):
  """Holds the lock `name` of the cache, so that several processes download a file once.

  A cache that cannot be written can still be read, without a lock. On a file system without locks each process
  downloads for itself.

  Yields:
    Whether the lock is held.
  """
  held = False
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):
      (root / "locks").mkdir(parents=True, exist_ok=True)
      file = stack.enter_context((root / "locks" / name).open("w"))
      held = _lock(file, what) is Lock.HELD
    yield held


def _lock(file, what):
  outcome = locks.acquire(file)
  if outcome is Lock.TAKEN:
    log.info("waiting for another process that downloads %s", what)
    outcome = locks.acquire(file, wait=True)
  return outcome


@contextlib.contextmanager
def writing(directory, advice="set --cache_dir or TL_APP_CACHE"):
  """Creates `directory`; turns a full disk or a missing permission inside the block into a `UserError` about it."""
  try:
    directory.mkdir(parents=True, exist_ok=True)
    yield
  except OSError as error:
    if error.errno in FULL:
      raise UserError(f"no space left in {directory}: free some, or {advice}") from None
    if error.errno in (*FORBIDDEN, errno.ENOTDIR, errno.EEXIST):
      raise UserError(f"{directory} cannot be written ({error.strerror}): {advice}") from None
    raise


def announce(what, tool, directory):
  log.info("fetching %s with %s into %s", what, tool, directory)


def reason(error):
  """Returns the first line of an exception, at most 200 characters."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:200]
