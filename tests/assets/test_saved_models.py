"""SavedModels that do something outside themselves are refused before they are loaded; genuine ones are let through."""

import pathlib
import shutil

import hostile_modules
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401, the operations of the genuine modules
import tiny_modules

from tl_app import backbones
from tl_app.assets import Assets, operations, saved_models
from tl_app.backbones import saved_backbone
from tl_app.errors import UserError


def load(path, trust=False):
  return backbones.load(backbones.resolve(str(path)), Assets(offline=True, trust=trust))


@pytest.mark.parametrize("write", hostile_modules.HOSTILE, ids=lambda write: write.__name__)
def test_a_hostile_module_is_refused_by_name_before_it_is_loaded(write, tmp_path):
  target = tmp_path / "target.txt"
  path = write(tmp_path / "module", target)
  target.unlink(missing_ok=True)
  with pytest.raises(UserError) as error:
    load(path)
  assert hostile_modules.HOSTILE[write] in str(error.value) and str(tmp_path / "module") in str(error.value)
  assert not target.exists() and "\n" not in str(error.value)


def test_genuine_modules_and_their_assets_are_let_through(shared):
  for name in ("bert_tiny", "bert_tiny_preprocess", "efficientnet_lite0"):
    assert saved_models.scan(shared(f"hub/{name}")) == []


def test_a_genuine_module_in_the_format_of_tensorflow_1_is_let_through(tmp_path):
  path = hostile_modules.harmless_in_the_format_of_tensorflow_1(tmp_path / "module")
  assert saved_models.scan(path) == []
  pathlib.Path(f"{path}_words.txt").unlink()
  features = saved_models.load(path).module.signatures["serving_default"](images=tf.ones([1, 8, 8, 3]))["features"]
  assert features.numpy().tolist() == [[4.0] * 8]


def test_trust_loads_the_module_and_says_so(tmp_path, caplog):
  target = tmp_path / "target.txt"
  path = hostile_modules.writes_when_loaded(tmp_path / "module", target)
  target.unlink(missing_ok=True)
  backbone = load(path, trust=True)
  assert target.read_text() == "written by an initialiser"
  assert "is loaded because of --trust_backbone: its graph has WriteFile, which writes files" in caplog.text
  assert backbone.effects == "WriteFile, which writes files"
  saved_backbone.write(backbone, tmp_path / "saved", saved_backbone.Card("module", "nothing", "none", {}, "none"))
  card = (tmp_path / "saved" / saved_backbone.CARD).read_text()
  assert "**Not safe to load unseen**: its graph has WriteFile, which writes files" in card
  with pytest.raises(UserError, match="WriteFile, which writes files"):
    load(tmp_path / "saved")


def test_a_preprocessing_model_is_scanned_too(tmp_path):
  hostile = hostile_modules.reads_a_file(tmp_path / "hostile", "/etc/hostname")
  good = backbones.resolve(tiny_modules.image_map(tmp_path / "good"))
  with pytest.raises(UserError, match="hostile is not loaded: its graph has ReadFile, which reads files"):
    backbones.load(good, Assets(offline=True), preprocessor=hostile)


def test_python_cannot_run_elsewhere_whatever_is_trusted(tmp_path):
  path = hostile_modules.runs_python(tmp_path / "module", None)
  with pytest.raises(UserError, match="the code is not in the file, so it cannot run here"):
    load(path, trust=True)


def test_a_damaged_module_is_one_line(tmp_path):
  good = pathlib.Path(tiny_modules.image_map(tmp_path / "good"))
  graph, index, shard = "saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"
  damages = {
    "cut": (graph, lambda data: data[: len(data) // 2], "saved_model.pb is damaged"),
    "noise": (graph, lambda data: bytes(range(256)) * 4, "saved_model.pb is damaged"),
    "nothing": (graph, lambda data: b"", "saved_model.pb is damaged"),
    "index": (index, lambda data: data[:20], "holds no readable SavedModel"),
    "shard": (shard, lambda data: data[:40], "holds no readable SavedModel"),
  }
  for name, (file, change, message) in damages.items():
    path = pathlib.Path(shutil.copytree(good, tmp_path / name))
    (path / file).write_bytes(change((path / file).read_bytes()))
    with pytest.raises(UserError, match=message) as error:
      load(path)
    assert "\n" not in str(error.value)


def test_the_tables_of_operations_fit_tensorflow():
  from tensorflow.python.framework import op_def_registry

  known = {name: op_def_registry.get(name) for name in operations.HARMLESS | operations.REFUSED.keys()}
  assert not operations.HARMLESS & operations.REFUSED.keys()
  # A name that does not exist would be a slip of the pen; TensorRT and Hexagon are not in every build.
  absent = {name for name, definition in known.items() if definition is None}
  assert absent <= {"TRTEngineOp", "CreateTRTResourceHandle", "InitializeTRTResource", "RemoteFusedGraphExecute"}
  assert all(known[name].is_stateful for name in operations.HARMLESS)
