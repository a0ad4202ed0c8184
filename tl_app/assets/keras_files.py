"""Model files of Keras that others made: code, links to other files and bombs are found before Keras opens them.

The safe mode of Keras refuses serialised Python functions in .keras files. These checks are made for both formats, go
over the whole configuration, and do not depend on the version of Keras.

`python -m tl_app.assets.keras_files FILE` reads a file and prints its fault as JSON.
"""

import io
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import typing
import zipfile
from collections.abc import Iterator

from tl_app.errors import UserError
from tl_app.files import compressed

# Layers whose configuration is code, or names a file that is loaded.
_CODE = {
  **dict.fromkeys(("Lambda", "__lambda__"), "which is Python code"),
  **dict.fromkeys(("TorchModuleWrapper", "JaxLayer", "FlaxLayer"), "which is Python code of another library"),
  "TFSMLayer": "which loads a SavedModel",
}
# Packages whose layers may be in a file.
_PACKAGES = {"keras", "keras_hub", "keras_nlp", "keras_cv", "tf_keras", "builtins"}
# Modules of Keras with functions that a layer may name.
_FUNCTIONS = re.compile(
  r"builtins|keras(\.src)?\.(activations|initializers|losses|metrics|ops|random|regularizers)(\..*)?"
)
# Settings of layers that may name a file, which would be read from this computer.
_FILES = {
  "vocabulary",
  "vocab",
  "vocabulary_file",
  "vocab_file",
  "merges",
  "proto",
  "filepath",
  "filename",
  "file_path",
}
# A .keras file holds less than this beside its weights, in bytes.
_LARGEST_CONFIG = 64 << 20
# Objects of an HDF5 file; a model has some thousands.
_MOST_OBJECTS = 1_000_000
# CPU time in which a file must be read: seconds, and bytes for each further second.
_SECONDS, _BYTES_PER_SECOND = 20, 10 << 20
# Memory in which a file must be read, in bytes: this, and twice what it may hold. In HDF5 many texts of variable length
# may be the same bytes, of which each gets a copy.
_MEMORY = 1 << 30


def fault(path: pathlib.Path) -> str:
  """Returns why a model file is not to be opened, or "".

  All of it is read once, in a new process: HDF5 crashes on some damaged files, and never returns from others.

  Args:
    path: a .keras file, or an HDF5 file with a whole model or with weights.

  Raises:
    ValueError: the file is damaged.
    UserError: it is so damaged that the process ended.
  """
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
  done = subprocess.run(
    [sys.executable, "-m", __name__, str(path)], env=environment, stdin=subprocess.DEVNULL, capture_output=True
  )
  if done.returncode:
    how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    raise UserError(f"{path} is damaged: the process that read it ended by {how}; fetch or save the file again")
  found = json.loads(done.stdout)
  if found["damage"]:
    raise ValueError(found["damage"])
  return found["fault"]


def find_fault(path: pathlib.Path) -> str:
  """Returns what `fault` does, but reads the file in this process.

  Raises:
    OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile: the file is damaged. h5py raises all of them.
  """
  if path.suffix == ".keras":
    return _of_archive(path)
  import h5py

  with h5py.File(path) as file:
    found = _of_hdf5(file)
    config = None if found else file.attrs.get("model_config")
    return found or (config_fault(json.loads(config)) if config is not None else "")


def main() -> None:
  """Prints the fault of the file that the argument names."""
  # What its import takes is not taken by the file.
  import h5py  # noqa: F401

  path = pathlib.Path(sys.argv[1])
  size = path.stat().st_size if path.is_file() else 0
  limit = _SECONDS + size // _BYTES_PER_SECOND
  resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  _limit_memory(_MEMORY + 2 * compressed.largest(size))
  found = {"fault": "", "damage": ""}
  try:
    found["fault"] = find_fault(path)
  except Exception as error:
    # h5py raises whatever a damaged file leads to.
    found["damage"] = " ".join(str(error).split()) or type(error).__name__
  print(json.dumps(found))


def _limit_memory(more):
  """Limits the memory of this process to what it has now, and `more` bytes."""
  statm = pathlib.Path("/proc/self/statm")
  if not statm.exists():
    # Only Linux tells, and keeps to this limit.
    return
  now = int(statm.read_text().split()[0]) * resource.getpagesize()
  before = [limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit != resource.RLIM_INFINITY]
  limit = min([now + more, *before])
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def config_fault(config: typing.Any) -> str:
  """Returns what a configuration has that Keras must not build, or "".

  Args:
    config: the parsed JSON of a model, a preset or a part of one.
  """
  return next(_faults(config, ""), "")


def _faults(config, key) -> Iterator[str]:
  if isinstance(config, list):
    for value in config:
      yield from _faults(value, "")
  elif isinstance(config, str):
    if key in _FILES and config:
      yield f"its setting {key!r} names the file {config[:80]!r}"
  elif isinstance(config, dict):
    yield from _of_object(config)
    for name, value in config.items():
      yield from _faults(value, name)


def _of_object(config):
  name, module, registered = (config.get(key) for key in ("class_name", "module", "registered_name"))
  if isinstance(name, str) and name in _CODE:
    yield f"it has a {name.strip('_')} layer, {_CODE[name]}"
  if isinstance(name, str) and isinstance(module, str):
    if module.partition(".")[0] not in _PACKAGES:
      yield f"it needs {module}.{name}, which is not of Keras"
    elif name == "function" and not _FUNCTIONS.fullmatch(module):
      yield f"it calls the function {module}.{config.get('config')}"
  if isinstance(registered, str) and ">" in registered and registered.partition(">")[0] not in _PACKAGES:
    yield f"it needs the custom object {registered!r}"


def _of_archive(path):
  try:
    compressed.check_zip(path)
  except compressed.TooLarge as error:
    return str(error)
  with zipfile.ZipFile(path) as archive:
    for member in archive.infolist():
      parts = pathlib.PurePosixPath(member.filename).parts
      if member.filename.startswith("/") or ".." in parts or "\\" in member.filename:
        return f"its member {member.filename!r} would be written outside its directory"
      # The file type of Unix, in the upper half of the attributes.
      if member.external_attr >> 28 == 0o12:
        return f"its member {member.filename!r} is a link"
    if archive.getinfo("config.json").file_size > _LARGEST_CONFIG:
      return f"its config.json is larger than {_LARGEST_CONFIG >> 20} MB"
    found = config_fault(json.loads(archive.read("config.json")))
    weights = [name for name in archive.namelist() if name.endswith(".h5")]
    return found or next((fault for name in weights if (fault := _of_member(archive, name))), "")


def _of_member(archive, name):
  import h5py

  # A stored member can be read in any order; one that is compressed is unpacked, within the limits of the archive.
  stored = archive.getinfo(name).compress_type == zipfile.ZIP_STORED
  with archive.open(name) as member, h5py.File(member if stored else io.BytesIO(member.read())) as file:
    return _of_hdf5(file)


def _of_hdf5(file):
  """Returns what leads an HDF5 file to another file, or lets it claim more than it holds; or "". Reads all values."""
  import h5py

  waiting, seen = [file], set()
  while waiting:
    group = waiting.pop()
    _read_attributes(group)
    for name in group:
      link = group.get(name, getlink=True)
      if not isinstance(link, h5py.HardLink):
        return f"its entry {group.name.rstrip('/')}/{name} is a link, {type(link).__name__}"
      member = group[name]
      address = h5py.h5o.get_info(member.id).addr  # pyright: ignore[reportAttributeAccessIssue]
      if address in seen:
        continue
      seen.add(address)
      if len(seen) > _MOST_OBJECTS:
        return f"it has more than {_MOST_OBJECTS:,} entries"
      if isinstance(member, h5py.Group):
        waiting.append(member)
      elif isinstance(member, h5py.Dataset):
        found = _of_dataset(member)
        if found:
          return found
        _read_attributes(member)
        member[()]
  return ""


def _read_attributes(member):
  for name in member.attrs:
    member.attrs[name]


def _of_dataset(dataset):
  if dataset.is_virtual or dataset.external:
    return f"its values {dataset.name} are in another file"
  claimed, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
  if dataset.shape and claimed > compressed.largest(stored):
    return f"its values {dataset.name} claim {claimed >> 20:,} MB, and {stored >> 20:,} MB are stored"
  return ""


if __name__ == "__main__":
  main()
