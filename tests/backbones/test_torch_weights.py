"""The restricted reader of PyTorch checkpoints: real layouts read back, everything else refused and never run."""

import collections
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from tl_app.backbones import torch_weights
from tl_app.errors import UserError


class _Global:
  """Pickles as a bare reference to a class or function that this machine need not have."""

  def __init__(self, module, name):
    self.module, self.name = module, name


class _Rebuild:
  def __init__(self, storage, offset, size, stride):
    self.args = (storage, offset, size, stride, False, collections.OrderedDict())


class _Storage:
  def __init__(self, kind, key, count):
    self.pid = ("storage", _Global("torch", kind), key, "cpu", count)


class _Pickler(pickle._Pickler):
  """Writes the opcodes that torch.save writes."""

  dispatch = dict(pickle._Pickler.dispatch)

  def __init__(self, file, legacy):
    super().__init__(file, protocol=2)
    self.legacy = legacy

  def persistent_id(self, value):
    if isinstance(value, _Storage):
      return value.pid + ((None,) if self.legacy else ())
    return None

  def save_global_name(self, value):
    self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

  def save_rebuild(self, value):
    self.save_global_name(_Global("torch._utils", "_rebuild_tensor_v2"))
    self.save(value.args)
    self.write(pickle.REDUCE)

  dispatch[_Global] = save_global_name
  dispatch[_Rebuild] = save_rebuild


def _pickled(value, legacy=False):
  file = io.BytesIO()
  _Pickler(file, legacy).dump(value)
  return file.getvalue()


def _zip(path, state, storages):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", state if isinstance(state, bytes) else _pickled(state))
    archive.writestr("archive/byteorder", "little")
    for key, data in storages.items():
      archive.writestr(f"archive/data/{key}", data)
  return path


def _legacy(path, state, storages, width):
  parts = [pickle.dumps(torch_weights.LEGACY_MAGIC, 2), pickle.dumps(1001, 2)]
  parts += [pickle.dumps({"little_endian": True}, 2), _pickled(state, legacy=True), pickle.dumps(list(storages), 2)]
  parts += [struct.pack("<q", len(data) // width) + data for data in storages.values()]
  path.write_bytes(b"".join(parts))
  return path


NUMBERS = np.arange(24, dtype=np.float32)


def _state(kind="FloatStorage"):
  storage = _Storage(kind, "0", 24)
  return collections.OrderedDict(
    plain=_Rebuild(storage, 0, (2, 3, 4), (12, 4, 1)),
    transposed=_Rebuild(storage, 0, (4, 6), (1, 4)),
    part=_Rebuild(storage, 20, (3,), (1,)),
    scalar=_Rebuild(storage, 5, (), ()),
  )


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_reads_shapes_strides_and_offsets(tmp_path, layout):
  data = {"0": NUMBERS.tobytes()}
  path = tmp_path / "model.pth"
  _zip(path, _state(), data) if layout == "zip" else _legacy(path, _state(), data, 4)
  state = torch_weights.read(path)
  assert list(state) == ["plain", "transposed", "part", "scalar"]
  np.testing.assert_array_equal(state["plain"], NUMBERS.reshape(2, 3, 4))
  np.testing.assert_array_equal(state["transposed"], NUMBERS.reshape(6, 4).T)
  np.testing.assert_array_equal(state["part"], [20, 21, 22])
  assert state["scalar"] == 5
  assert {array.dtype for array in state.values()} == {np.dtype(np.float32)}


def test_other_number_types(tmp_path):
  state = {
    "half": _Rebuild(_Storage("HalfStorage", "0", 2), 0, (2,), (1,)),
    "brain": _Rebuild(_Storage("BFloat16Storage", "1", 2), 0, (2,), (1,)),
    "long": _Rebuild(_Storage("LongStorage", "2", 1), 0, (), ()),
  }
  brain = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)
  data = {"0": np.array([0.5, 3], np.float16).tobytes(), "1": brain.tobytes(), "2": np.int64(7).tobytes()}
  state = torch_weights.read(_zip(tmp_path / "model.pth", state, data))
  np.testing.assert_array_equal(state["half"], np.array([0.5, 3], np.float32))
  np.testing.assert_array_equal(state["brain"], np.array([1.5, -2.0], np.float32))
  assert state["long"] == 7 and state["long"].dtype == np.int64


class _Evil:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_malicious_pickle_runs_nothing(tmp_path, layout):
  made = str(tmp_path / "made")
  path = tmp_path / "model.pth"
  evil = pickle.dumps({"weight": _Evil(made)}, 2)
  _zip(path, evil, {}) if layout == "zip" else path.write_bytes(evil)
  with pytest.raises(UserError, match="mkdir"):
    torch_weights.read(path)
  assert not os.path.exists(made)


@pytest.mark.parametrize("name", ["builtins eval", "torch load", "torch._utils _import_dotted_name", "numpy load"])
def test_other_names_are_refused(tmp_path, name):
  module, attribute = name.split()
  path = _zip(tmp_path / "model.pth", _pickled({"x": _Global(module, attribute)}), {})
  with pytest.raises(UserError, match=f"asks for {module}.{attribute}"):
    torch_weights.read(path)


@pytest.mark.parametrize(
  "size, stride, offset", [((25,), (1,), 0), ((5,), (1,), 20), ((2,), (-1,), 3), ((2,), (1, 1), 0), ((9, 9), (0, 1), 0)]
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, size, stride, offset):
  state = {"x": _Rebuild(_Storage("FloatStorage", "0", 24), offset, size, stride)}
  with pytest.raises(UserError, match="tensor"):
    torch_weights.read(_zip(tmp_path / "model.pth", state, {"0": NUMBERS.tobytes()}))


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.6, 0.95])
def test_damaged_files_are_refused_in_one_line(tmp_path, layout, keep):
  path = tmp_path / "model.pth"
  data = {"0": NUMBERS.tobytes()}
  _zip(path, _state(), data) if layout == "zip" else _legacy(path, _state(), data, 4)
  whole = path.read_bytes()
  path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
  with pytest.raises(UserError) as caught:
    torch_weights.read(path)
  assert "model.pth" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(UserError, match="nowhere.pth"):
    torch_weights.read(tmp_path / "nowhere.pth")
