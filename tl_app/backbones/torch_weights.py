"""Reads the tensors of a PyTorch checkpoint, zip or legacy format, without PyTorch and without running its pickle."""

import collections
import math
import os
import pathlib
import pickle
import sys
import typing
import zipfile

import numpy as np

from tl_app.errors import UserError
from tl_app.files import compressed

# First pickle of the legacy format, torch/serialization.py.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

# Storage class -> NumPy dtype; NumPy has no bfloat16, which is converted to float32.
STORAGES = {
  "FloatStorage": "<f4",
  "DoubleStorage": "<f8",
  "HalfStorage": "<f2",
  "BFloat16Storage": "<u2",
  "LongStorage": "<i8",
  "IntStorage": "<i4",
  "ShortStorage": "<i2",
  "CharStorage": "|i1",
  "ByteStorage": "|u1",
  "BoolStorage": "|b1",
}

MALFORMED = (
  pickle.UnpicklingError,
  zipfile.BadZipFile,
  ArithmeticError,
  AttributeError,
  EOFError,
  LookupError,
  MemoryError,
  NotImplementedError,
  RecursionError,
  RuntimeError,
  TypeError,
  ValueError,
)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the state dict of a checkpoint file.

  Args:
    path: file written by `torch.save(state_dict)`.

  Returns:
    dict, name -> array in C order; floating types become float32, integers keep their type.

  Raises:
    UserError: the file is not a checkpoint, is damaged, or its pickle contains anything but tensors; none of it is run.
  """
  path = pathlib.Path(path)
  try:
    state, buffers = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    if not isinstance(state, dict):
      raise pickle.UnpicklingError(f"it holds a {type(state).__name__}")
    return {str(name): _array(tensor, buffers) for name, tensor in dict.items(state)}
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
  except MALFORMED as error:
    reason = " ".join(str(error).split()) or type(error).__name__
    raise UserError(f"{path} is not a PyTorch checkpoint of plain tensors: {reason}") from None


def _read_zip(path):
  """Returns (state with `_Tensor` leaves, storage key -> bytes) of the zip format."""
  compressed.check_zip(path)
  with zipfile.ZipFile(path) as archive:
    names = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(names) != 1:
      raise pickle.UnpicklingError("no data.pkl in the zip")
    root = names[0][: -len("data.pkl")]
    if root + "byteorder" in archive.namelist() and archive.read(root + "byteorder") != b"little":
      raise pickle.UnpicklingError("it is big-endian")
    with archive.open(names[0]) as file:
      unpickler = _TensorUnpickler(file)
      state = unpickler.load()
    return state, {key: archive.read(f"{root}data/{key}") for key in unpickler.storages}


def _read_legacy(path):
  """Returns (state with `_Tensor` leaves, storage key -> bytes) of the legacy format: five pickles, then raw data."""
  with open(path, "rb") as file:
    if _TensorUnpickler(file).load() != LEGACY_MAGIC:
      raise pickle.UnpicklingError("its first bytes are not PyTorch's")
    _TensorUnpickler(file).load()
    if not _TensorUnpickler(file).load().get("little_endian"):
      raise pickle.UnpicklingError("it is big-endian")
    unpickler = _TensorUnpickler(file)
    state = unpickler.load()
    buffers = {}
    for key in _TensorUnpickler(file).load():
      storage = unpickler.storages[key]
      count = int.from_bytes(file.read(8), "little")
      if count != storage.count:
        raise pickle.UnpicklingError(f"storage {key} has {count} numbers instead of {storage.count}")
      buffers[key] = file.read(count * np.dtype(storage.dtype).itemsize)
    return state, buffers


def _rebuild_tensor(storage, offset, size, stride, *unused):
  return _Tensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(tensor, *unused):
  return tensor


def _array(tensor, buffers):
  """Returns the numpy array of a `_Tensor`; the checkpoint's strides need not be those of C order."""
  if not isinstance(tensor, _Tensor) or not isinstance(tensor.storage, _Storage):
    raise pickle.UnpicklingError(f"it holds a {type(tensor).__name__} where a tensor is expected")
  storage, size, stride = tensor.storage, tensor.size, tensor.stride
  data = buffers[storage.key]
  dtype = np.dtype(storage.dtype)
  if len(data) != storage.count * dtype.itemsize:
    raise pickle.UnpicklingError(f"storage {storage.key} is cut short")
  flat = np.frombuffer(data, dtype)
  if len(size) != len(stride) or min((tensor.offset, *size, *stride), default=0) < 0:
    raise pickle.UnpicklingError(f"a tensor has size {size} and stride {stride}")
  last = tensor.offset + sum((n - 1) * step for n, step in zip(size, stride))
  if math.prod(size) and (last >= len(flat) or math.prod(size) > len(flat)):
    raise pickle.UnpicklingError("a tensor reaches beyond its storage")
  if not math.prod(size):
    return np.zeros(size, np.float32 if dtype.kind == "f" else dtype)
  view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], size, [step * dtype.itemsize for step in stride])
  if storage.bfloat16:
    return (view.astype(np.uint32) << 16).view(np.float32)
  return np.array(view, np.float32 if dtype.kind == "f" else dtype.newbyteorder("="), order="C")


class _Storage(typing.NamedTuple):
  key: str
  dtype: str
  bfloat16: bool
  count: int


class _Tensor(typing.NamedTuple):
  storage: _Storage
  offset: int
  size: tuple
  stride: tuple


class _TensorUnpickler(pickle.Unpickler):
  """Accepts the few names of a state dict; any other name raises before it is imported."""

  def __init__(self, file):
    super().__init__(file, encoding="utf-8")
    self.storages = {}

  def find_class(self, module, name):
    if (module, name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
      return _rebuild_tensor
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
      return _rebuild_parameter
    if module in ("torch", "torch.storage") and name in STORAGES:
      return name
    raise pickle.UnpicklingError(f"its pickle asks for {module}.{name}")

  def persistent_load(self, pid):
    if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and pid[1] in STORAGES):
      raise pickle.UnpicklingError("unknown persistent id")
    if len(pid) > 5 and pid[5] is not None:
      raise pickle.UnpicklingError("storage views are not supported")
    key, count = sys.intern(str(pid[2])), int(pid[4])
    storage = _Storage(key, STORAGES[pid[1]], pid[1] == "BFloat16Storage", count)
    if self.storages.setdefault(key, storage) != storage:
      raise pickle.UnpicklingError(f"storage {key} has two types")
    return storage
