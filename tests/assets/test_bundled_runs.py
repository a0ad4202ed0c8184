"""A run from a bundle: what it records, and that it opens no connection. The hubs are fakes."""

import dataclasses
import pathlib
import shutil
import socket

import numpy as np
import pytest
import tiny_data
import tiny_modules
import tiny_presets

from tl_app import backbones, files, workdir
from tl_app.assets import Assets
from tl_app.commands import bundle, evaluate, train
from tl_app.config import Config
from tl_app.errors import UserError

pytestmark = pytest.mark.slow

MODULE = "https://tfhub.dev/google/tiny/feature_vector/1"


@pytest.fixture
def only_loopback(monkeypatch):
  """Fails a test that connects to another machine, or asks for the address of one."""
  connect = socket.socket.connect

  def checked(self, address):
    assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), address
    return connect(self, address)

  def refuse(host, *args, **kwargs):
    raise AssertionError(f"the address of {host} was asked for")

  monkeypatch.setattr(socket.socket, "connect", checked)
  monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_run_from_a_bundle_opens_no_connection_and_records_its_downloads(hub, tmp_path, only_loopback):
  source = tiny_modules.image(tmp_path / "source")
  hub.served[MODULE] = [lambda directory: shutil.copytree(source, directory)]
  tiny_data.colours(tmp_path / "colours")
  config = Config(
    backbone=MODULE,
    dataset=f"images:{tmp_path / 'colours'}",
    cache_dir=str(tmp_path / "cache"),
    recipe="probe",
    head_epochs=2,
    image_size=16,
  )
  (download,), local = bundle.bundle(config, tmp_path / "run.tar")
  assert download.source == MODULE and "saved_model.pb" in download.files
  assert local == [f"--dataset=images:{tmp_path / 'colours'}"]
  # The bundle is all that is left.
  shutil.rmtree(tmp_path / "cache")
  config = dataclasses.replace(config, bundle=str(tmp_path / "run.tar"))
  metrics = train.train_and_evaluate(config, tmp_path / "run")
  assert hub.calls == [MODULE]
  assert files.read_json(tmp_path / "run/plan.json")["downloads"] == [dataclasses.asdict(download)]
  assert files.read_json(tmp_path / "run/export" / workdir.EXPORT_FACTS)["downloads"] == [dataclasses.asdict(download)]
  card = (tmp_path / "run/export/model_card.md").read_text()
  assert f"- hub_module `{MODULE}`, licence unknown\n" in card
  again = evaluate.evaluate(tmp_path / "run", {}, "")
  assert again["test"]["accuracy"] == metrics["test"]["accuracy"]
  # Without the bundle and its unpacked copy the run says what it needs.
  (tmp_path / "run.tar").unlink()
  shutil.rmtree(pathlib.Path(config.cache_dir, "bundles"))
  with pytest.raises(UserError, match=f"--offline: {MODULE} is not in the cache .*; run once without --offline"):
    evaluate.evaluate(tmp_path / "run", {}, "", {"offline": True})


def test_a_preset_is_bundled_with_the_files_that_keras_hub_reads(tmp_path, monkeypatch, only_loopback):
  import kagglehub

  handle, model = "kaggle://keras/bert/keras/tiny", tmp_path / "kaggle/models/keras/bert/keras/tiny"
  tiny_presets.bert(tmp_path / "preset", layers=1)
  (tmp_path / "preset/README.md").write_text("not read")

  def download(name, path):
    if not (tmp_path / "preset" / path).is_file():
      raise ValueError(f"{path} is not present in the model files")
    for target in (model / "1" / path, model / ".complete/1" / f"{path}.complete"):
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(tmp_path / "preset" / path, target)
    return str(model / "1" / path)

  monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
  monkeypatch.setattr(kagglehub, "model_download", download)
  config = Config(backbone=handle, cache_dir=str(tmp_path / "cache"))
  (found,), local = bundle.bundle(config, tmp_path / "run.tar")
  assert found.revision == "1" and local == []
  assert {"config.json", "model.weights.h5", "tokenizer.json"} < set(found.files) and "README.md" not in found.files
  spec = backbones.resolve(handle)
  online = backbones.load_configured(spec, Assets.of(config), config)
  shutil.rmtree(tmp_path / "kaggle")
  config = dataclasses.replace(config, bundle=str(tmp_path / "run.tar"))
  bundled = backbones.load_configured(spec, Assets.of(config), config)
  for one, other in zip(online.network.weights, bundled.network.weights, strict=True):
    np.testing.assert_array_equal(one, other)
  assert bundled.downloads == [found] == online.downloads
