"""SavedModels of tensorflow_hub: downloaded, checked, and removed when damaged."""

import errno
import logging
import os
import pathlib
import shutil
import socket

from tl_app.assets import cache
from tl_app.config.paths import expanded
from tl_app.errors import UserError

log = logging.getLogger(__name__)


def resolve(handle, directory):
  """Returns the path of `tensorflow_hub.resolve(handle)` with `directory` as its cache."""
  import tensorflow as tf
  import tensorflow_hub

  before = os.environ.get("TFHUB_CACHE_DIR")
  os.environ["TFHUB_CACHE_DIR"] = str(directory)
  try:
    return tensorflow_hub.resolve(handle)
  except (tf.errors.OpError, ValueError, RuntimeError) as error:
    full = os.strerror(errno.ENOSPC) in str(error)
    raise (OSError(errno.ENOSPC, cache.reason(error)) if full else OSError(cache.reason(error))) from error
  finally:
    if before is None:
      del os.environ["TFHUB_CACHE_DIR"]
    else:
      os.environ["TFHUB_CACHE_DIR"] = before


def remove(directory, handle, rests=True):
  """Removes a damaged module, and with `rests`, under our own lock, files of a killed download."""
  if directory.exists():
    log.warning("%s in %s is damaged: removed and fetched again", handle, directory)
    shutil.rmtree(directory)
  if not rests:
    return
  lock = directory.with_name(directory.name + ".lock")
  # tensorflow_hub would wait ten minutes for the dead process of a lock ("host.pid.task").
  if lock.exists() and _is_dead(lock.read_text()):
    lock.unlink(missing_ok=True)
  for rest in directory.parent.glob(f"{directory.name}.*.tmp"):
    if not lock.exists():
      shutil.rmtree(rest, ignore_errors=True)


def _is_dead(owner):
  """Whether the owner "host.pid.task" of a lock ran on this machine and has ended."""
  host, _, rest = owner.rpartition(".")[0].rpartition(".")
  if host != socket.gethostname() or not rest.isdigit():
    return False
  try:
    os.kill(int(rest), 0)
  except ProcessLookupError:
    return True
  except PermissionError:
    return False
  return False


def damage_of(directory):
  """Returns what is missing from a SavedModel at `directory`, or ""."""
  if not (directory / "saved_model.pb").is_file():
    return "saved_model.pb is missing"
  variables = directory / "variables"
  shards = list(variables.glob("variables.data-*-of-*"))
  if variables.is_dir() and not (variables / "variables.index").is_file() and shards:
    return "variables/variables.index is missing"
  if (variables / "variables.index").is_file():
    expected = int(shards[0].name.rpartition("-")[2]) if shards else 1
    if len(shards) != expected:
      return f"variables/ has {len(shards)} of {expected} data files"
  return ""


def require_tf2(directory, handle):
  """Returns `directory`; a hub.Module of TF1 is an error."""
  if (directory / "tfhub_module.pb").exists():
    raise UserError(f"{handle} is a module in the TF1 format (tfhub_module.pb): use its TF2 SavedModel version")
  return directory


def local_module(handle):
  directory = pathlib.Path(expanded(handle))
  if not directory.is_dir():
    raise UserError(
      f"{handle} is not a directory: expected one with saved_model.pb, or a tfhub.dev or kaggle.com/models URL"
    )
  require_tf2(directory, handle)
  damage = damage_of(directory)
  if damage:
    found = sorted(path.name for path in directory.iterdir())
    inner = [name for name in found if (directory / name / "saved_model.pb").is_file()]
    hint = f"; did you mean {directory / inner[0]}?" if inner else ""
    raise UserError(
      f"{handle} is not a complete SavedModel: {damage}; expected saved_model.pb and variables/, "
      f"found {', '.join(found[:8]) or 'nothing'}{hint}"
    )
  return directory
