"""Runs of several workers: one of them writes the workdir, and all must have been given the same flags and data."""

import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import numpy as np

from tl_app import config as config_lib
from tl_app import workdir as workdir_lib
from tl_app.compute.devices import Devices
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.workdir import Record

# Flags that may differ among machines.
OF_MACHINE = ("workdir", "cache_dir", "data_dir", "feature_cache", "offline", "bundle")
PACKAGES = ("tensorflow", "keras")


@contextlib.contextmanager
def resumable(workdir: str | pathlib.Path, config: Config, devices: Devices) -> Iterator[Record]:
  """Makes `workdir` that of a run on the chief, see `workdir.resumable`; yields the `Record`.

  Other workers get a temporary directory, which is deleted at the end, and continue from the state of the chief.

  Raises:
    UserError: the chief cannot use the directory; all workers raise it.
  """
  with contextlib.ExitStack() as stack:
    record = _on_chief(lambda: stack.enter_context(workdir_lib.resumable(workdir, config)), devices)
    names = devices.decided(lambda: _state_files(record) if devices.workers > 1 else [])
    contents = devices.arrays(lambda: [np.fromfile(record.paths.root / name, np.uint8) for name in names])
    if record is None:
      directory = _temporary(stack, devices)
      for name, content in zip(names, contents):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        content.tofile(directory / name)
      record = stack.enter_context(workdir_lib.resumable(directory, config))
    yield record


def _on_chief(enter, devices):
  """Returns what `enter` returns on the chief, None on other workers; all raise its error."""
  found = []
  devices.decided(lambda: found.append(enter()))
  return found[0] if found else None


def _temporary(stack, devices):
  directory = tempfile.mkdtemp(prefix=f"tl_app_worker{devices.worker}_")
  stack.callback(shutil.rmtree, directory, ignore_errors=True)
  return pathlib.Path(directory)


def _state_files(record):
  """Returns the names of the files from which a run continues, below its workdir: the settings and the newest state."""
  if not record.state.continued:
    return []
  newest = max(path for path in record.paths.resume.iterdir() if path.name.isdigit())
  found = [record.paths.config, *sorted(newest.iterdir())]
  return [path.relative_to(record.paths.root).as_posix() for path in found]


def check_same(config: Config, data: dict, devices: Devices) -> None:
  """Checks that this worker has the flags, the data and the packages of the chief.

  Args:
    config: the `Config`.
    data: facts about the data, as splits.json holds them.
    devices: the `Devices`.

  Raises:
    UserError: they differ.
  """
  if devices.workers == 1:
    return
  mine = _facts(config, data)
  digest = int.from_bytes(hashlib.sha256(json.dumps(mine).encode()).digest()[:7], "little")
  digests = devices.joined(lambda positions: np.full(len(positions), digest), np.arange(devices.workers))
  other = [int(worker) for worker in np.flatnonzero(digests != digests[0])]
  if not other:
    return
  chief = devices.decided(lambda: mine)
  names = [name for name in mine if mine[name] != chief[name]]
  what = f"{names[0]} {mine[names[0]]} and not {chief[names[0]]}" if names else "other flags, data or packages"
  raise UserError(
    f"worker {devices.worker if names else other[0]} has {what}, unlike worker 0: give all workers the same flags, "
    "data and packages"
  )


def _facts(config, data):
  flags = {f"--{name}": str(getattr(config, name)) for name in config_lib.FIELDS if name not in OF_MACHINE}
  versions = {name: importlib.metadata.version(name) for name in PACKAGES}
  return flags | versions | {"data of checksum": hashlib.sha256(json.dumps(data, default=str).encode()).hexdigest()[:8]}
