"""The files of a saved state.

A state is a directory, named by its number. `arrays.bin` holds the bytes of all arrays, `state.json` everything else
with the sha256 of each array, and `state.json.sha256` the sha256 of that file.
"""

import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import typing
from collections.abc import Container, Iterator, Mapping

# Number of the layout of a state.
FORMAT = 1
_ARRAYS, _STATE, _CHECKSUM = "arrays.bin", "state.json", "state.json.sha256"
# The key of a reference to an array in state.json.
_ARRAY = "array"


def numbers(directory: pathlib.Path) -> list[str]:
  """Returns the names of the states in a directory, the oldest first."""
  return sorted(path.name for path in directory.glob("[0-9]*")) if directory.is_dir() else []


def write(directory: pathlib.Path, values: Mapping, arrays: Mapping, kept: int) -> None:
  """Writes a state: to a new directory, which is flushed to disk and then renamed.

  Args:
    directory: of the states.
    values: JSON values.
    arrays: {sha256: array}.
    kept: number of states that are kept, this one included.

  Raises:
    OSError: the disk is full, or the directory cannot be written; the states before this one stay.
  """
  directory.mkdir(parents=True, exist_ok=True)
  before = numbers(directory)
  # What a killed process has written in part.
  for rest in directory.glob(".new*"):
    shutil.rmtree(rest, ignore_errors=True)
  new = pathlib.Path(tempfile.mkdtemp(prefix=".new", dir=directory))
  try:
    _fill(new, values, arrays)
    new.rename(directory / f"{int(before[-1]) + 1 if before else 1:06}")
  except OSError as error:
    shutil.rmtree(new, ignore_errors=True)
    error.filename = str(directory)
    raise
  _flush_directory(directory)
  for number in before[: len(before) + 1 - kept]:
    shutil.rmtree(directory / number, ignore_errors=True)


def _fill(new, values, arrays):
  """Writes the files of a state into an empty directory, and flushes them to disk."""
  index, offset = {}, 0
  with open(new / _ARRAYS, "wb") as file:
    for sha, array in arrays.items():
      file.write(_bytes(array))
      index[sha] = {"dtype": array.dtype.name, "shape": list(array.shape), "offset": offset}
      offset += array.nbytes
    _flush(file)
  text = json.dumps({**values, "arrays": index}).encode()
  for name, content in ((_STATE, text), (_CHECKSUM, f"{hashlib.sha256(text).hexdigest()}  {_STATE}\n".encode())):
    with open(new / name, "wb") as file:
      file.write(content)
      _flush(file)
  _flush_directory(new)


def read(directory: pathlib.Path) -> dict:
  """Returns the values of a state, with "arrays" as {sha256: array}.

  Raises:
    OSError, ValueError, KeyError, TypeError: it is damaged.
  """
  import numpy as np

  text = (directory / _STATE).read_bytes()
  if (directory / _CHECKSUM).read_text().split()[0] != hashlib.sha256(text).hexdigest():
    raise ValueError(f"{_STATE} has another sha256")
  values, arrays = json.loads(text), {}
  if values["format"] != FORMAT:
    raise ValueError(f"it has format {values['format']}, and this tl_app reads format {FORMAT}")
  with open(directory / _ARRAYS, "rb") as file:
    for sha, about in values["arrays"].items():
      dtype, shape = np.dtype(about["dtype"]), tuple(about["shape"])
      array = np.empty(shape, dtype)
      file.seek(about["offset"])
      if file.readinto(_bytes(array)) != array.nbytes or sha256(array) != sha:
        raise ValueError(f"an array of {_ARRAYS} has another sha256")
      arrays[sha] = array
  return values | {"arrays": arrays}


def _flush(file):
  file.flush()
  os.fsync(file.fileno())


def _flush_directory(path):
  number = os.open(path, os.O_RDONLY)
  try:
    os.fsync(number)
  finally:
    os.close(number)


def numpy(variable: typing.Any) -> typing.Any:
  """Returns the value of a Keras variable, a contiguous NumPy array."""
  import numpy as np

  return np.ascontiguousarray(variable.numpy() if hasattr(variable, "numpy") else variable)


def _bytes(array):
  """Returns the memory of a contiguous array as bytes."""
  return memoryview(array.reshape(-1).view("uint8"))


def sha256(array: typing.Any) -> str:
  """Returns the sha256 of the dtype, the shape and the bytes of an array."""
  digest = hashlib.sha256(f"{array.dtype.name} {array.shape}".encode())
  digest.update(_bytes(array))
  return digest.hexdigest()


def encode(tree: typing.Any, arrays: dict, known: Container) -> typing.Any:
  """Returns `tree` with {"array": sha256} in place of each array, and adds those to `arrays` that are not `known`."""
  import numpy as np

  if isinstance(tree, dict):
    return {name: encode(value, arrays, known) for name, value in tree.items()}
  if isinstance(tree, (list, tuple)):
    return [encode(value, arrays, known) for value in tree]
  if isinstance(tree, np.ndarray):
    array = np.ascontiguousarray(tree).reshape(tree.shape)
    sha = sha256(array)
    if sha not in known:
      arrays.setdefault(sha, array)
    return {_ARRAY: sha}
  return tree.item() if isinstance(tree, np.generic) else tree


def decode(tree: typing.Any, arrays: Mapping) -> typing.Any:
  """Returns `tree` with the arrays in place of each {"array": sha256}."""
  if isinstance(tree, dict):
    if set(tree) == {_ARRAY}:
      return arrays[tree[_ARRAY]]
    return {name: decode(value, arrays) for name, value in tree.items()}
  return [decode(value, arrays) for value in tree] if isinstance(tree, list) else tree


def references(tree: typing.Any) -> Iterator[str]:
  """Yields the sha256 of each array in a tree."""
  if isinstance(tree, dict):
    if set(tree) == {_ARRAY}:
      yield tree[_ARRAY]
      return
    tree = list(tree.values())
  for value in tree if isinstance(tree, list) else ():
    yield from references(value)
