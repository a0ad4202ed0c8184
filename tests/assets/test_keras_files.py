"""Model files of Keras with code, links or bombs are refused before Keras opens them."""

import io
import json
import zipfile
import zlib

import h5py
import keras
import numpy as np
import pytest

from tl_app import backbones
from tl_app.assets import Assets, keras_files, presets
from tl_app.errors import UserError

LAYERS = keras.layers


def layer(name, config=None, module="keras.layers", **more):
  return {"module": module, "class_name": name, "config": config or {}, **more}


CONFIGS = {
  "a Lambda layer inside two others": (
    layer("Sequential", {"layers": [layer("TimeDistributed", {"layer": layer("Lambda")})]}),
    "it has a Lambda layer, which is Python code",
  ),
  "a lambda as activation": (layer("Dense", {"activation": layer("__lambda__")}), "which is Python code"),
  "a SavedModel in a layer": (layer("TFSMLayer", {"filepath": "/models/x"}), "which loads a SavedModel"),
  "a module of PyTorch": (layer("TorchModuleWrapper"), "Python code of another library"),
  "a class of another package": (layer("Popen", module="subprocess"), "it needs subprocess.Popen"),
  "a function of Keras": (
    layer("Activation", {"activation": layer("function", "load_model", "keras.models")}),
    "it calls the function keras.models.load_model",
  ),
  "a custom object": (
    layer("Mine", module=None, registered_name="mine>Mine"),
    "it needs the custom object 'mine>Mine'",
  ),
  "a vocabulary in a file": (layer("StringLookup", {"vocabulary": "/etc/passwd"}), "names the file '/etc/passwd'"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_code_and_files_in_a_configuration_are_found(kind, tmp_path):
  config, message = CONFIGS[kind]
  archive = zipped(tmp_path / "m.keras", {"config.json": json.dumps(layer("Functional", {"layers": [config]}))})
  with h5py.File(tmp_path / "m.h5", "w") as file:
    file.attrs["model_config"] = json.dumps(config)
  assert message in keras_files.find_fault(archive) and message in keras_files.find_fault(tmp_path / "m.h5")
  (tmp_path / "config.json").write_text(json.dumps(config | {"registered_name": "keras_hub>Backbone"}))
  (tmp_path / "model.weights.h5").touch()
  if kind != "a custom object":
    with pytest.raises(UserError, match="config.json is refused: "):
      presets.local_preset(tmp_path)


def test_functions_of_layers_and_genuine_files_are_let_through(tmp_path):
  model = keras.Sequential(
    [
      keras.Input((8, 8, 3)),
      LAYERS.Conv2D(4, 3, activation="silu", kernel_regularizer="l2"),
      LAYERS.Activation(keras.ops.relu),
      LAYERS.GlobalAveragePooling2D(),
    ]
  )
  for name in ("m.keras", "m.h5"):
    model.save(tmp_path / name)
    assert keras_files.find_fault(tmp_path / name) == ""
    backbones.load(backbones.resolve(str(tmp_path / name)), Assets(offline=True))


def test_archives_that_leave_their_directory_or_are_bombs(tmp_path):
  config = {"config.json": json.dumps(layer("Functional"))}
  for name in ("../out.txt", "/tmp/out.txt", "a\\..\\b"):
    assert "would be written outside" in keras_files.find_fault(zipped(tmp_path / "m.keras", {name: "x", **config}))
  link = zipfile.ZipInfo("link")
  link.external_attr = 0o120777 << 16
  assert "is a link" in keras_files.find_fault(zipped(tmp_path / "m.keras", {link: "/etc/passwd", **config}))
  bomb = zipped(tmp_path / "m.keras", {"model.weights.h5": bytes(66 << 20), **config})
  assert "it unpacks to more than 64 MB" in keras_files.find_fault(bomb)


def test_weights_that_are_in_another_file_or_claim_too_much(tmp_path):
  with h5py.File(tmp_path / "other.h5", "w") as other:
    other["secret"] = np.ones(4)

  def external(file):
    file["w"] = h5py.ExternalLink("other.h5", "/secret")

  def soft(file):
    file["w"] = h5py.SoftLink("/anywhere")

  def virtual(file):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (4,))
    file.create_virtual_dataset("w", layout)

  def raw(file):
    file.create_dataset("w", (4,), "f8", external=[(str(tmp_path / "other.h5"), 0, 32)])

  def large(file):
    file.create_dataset("w", (1 << 33,), "f4", chunks=(1 << 20,))

  reasons = {external: "is a link, ExternalLink", soft: "is a link, SoftLink", virtual: "are in another file"}
  for write, reason in (reasons | {raw: "are in another file", large: "claim 32,768 MB"}).items():
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
      write(file.create_group("layers/dense"))
      file["layers/again"] = file["layers"]
    assert reason in keras_files.find_fault(path)
    inner = {"config.json": json.dumps(layer("Functional")), "model.weights.h5": path.read_bytes()}
    assert reason in keras_files.find_fault(zipped(tmp_path / "m.keras", inner))
    with pytest.raises(UserError, match="cannot be loaded in Keras' safe mode"):
      backbones.load(backbones.resolve(str(tmp_path / "m.keras")), Assets(offline=True))


def test_a_file_on_which_hdf5_crashes_or_never_ends_is_damaged(tmp_path, monkeypatch):
  (tmp_path / "h5py.py").write_text("import os, signal\ndef File(path):\n  os.kill(os.getpid(), signal.SIGSEGV)\n")
  (tmp_path / "m.h5").write_bytes(b"")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(UserError, match="m.h5 is damaged: the process that read it ended by SIGSEGV; fetch or save"):
    backbones.load(backbones.resolve(str(tmp_path / "m.h5")), Assets(offline=True))
  (tmp_path / "h5py.py").write_text("def File(path):\n  while True:\n    pass\n")
  (tmp_path / "sitecustomize.py").write_text(
    "import resource\nlimited = resource.setrlimit\n"
    "resource.setrlimit = lambda kind, limit: limited(kind, (1, 1) if limit[0] == 20 else limit)\n"
  )
  with pytest.raises(UserError, match="ended by SIGKILL"):
    keras_files.fault(tmp_path / "m.h5")


def test_texts_that_are_the_same_bytes_do_not_fill_the_memory(tmp_path):
  path, texts = tmp_path / "m.h5", h5py.string_dtype()
  with h5py.File(path, "w") as file:
    file.create_dataset("one", data=["x" * (1 << 20)], dtype=texts, chunks=(1,))
  with h5py.File(path, "r+") as file:
    _, reference = file["one"].id.read_direct_chunk((0,))
    many = file.create_dataset("many", (1 << 18,), texts, chunks=(1 << 18,), compression="gzip")
    many.id.write_direct_chunk((0,), zlib.compress(reference * (1 << 18)))
  assert path.stat().st_size < 2 << 20
  with pytest.raises(ValueError, match="memory"):
    keras_files.fault(path)


@pytest.mark.parametrize("site", ["kaggle", "hf"])
def test_code_in_a_preset_that_is_downloaded_is_found_before_keras_hub_reads_it(site, tmp_path, monkeypatch):
  import huggingface_hub.utils
  import kagglehub

  def download(name, path):
    if not (tmp_path / path).exists():
      raise ValueError(f"{path} is not present in the model files") if site == "kaggle" else missing(path)
    return str(tmp_path / path)

  missing = huggingface_hub.utils.LocalEntryNotFoundError
  monkeypatch.setattr(kagglehub, "model_download", download)
  monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo_id, filename: download(repo_id, filename))
  handle = {"kaggle": "kaggle://me/tiny/keras/one", "hf": "hf://me/tiny"}[site]
  (tmp_path / "config.json").write_text(json.dumps(layer("Backbone", registered_name="keras_hub>Backbone")))
  assert Assets().preset(handle) == handle
  (tmp_path / "tokenizer.json").write_text(json.dumps(layer("Lambda")))
  with pytest.raises(UserError, match=f"{handle}: tokenizer.json is refused: it has a Lambda layer"):
    Assets().preset(handle)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(UserError, match=f"{handle}: config.json is damaged"):
    Assets().preset(handle)


def zipped(path, members):
  target = io.BytesIO()
  with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  path.write_bytes(target.getvalue())
  return path
