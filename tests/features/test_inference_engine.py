"""OpenVINO in place of TensorFlow: when, by what proof, and that it gives the same features."""

import dataclasses
import importlib.util
import logging
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_data
import tiny_modules
import tiny_presets

from tl_app import backbones, files
from tl_app.assets import Assets
from tl_app.commands import train
from tl_app.config import Config
from tl_app.data.examples import Inputs
from tl_app.errors import UserError
from tl_app.features import inference_engine
from tl_app.features.frozen import Features
from tl_app.model import heads, inference

needs_openvino = pytest.mark.skipif(
  importlib.util.find_spec("openvino") is None, reason="openvino, an extra, is not installed"
)
ALL = np.arange(40)


class Answers:
  """Stands for a network: `predict` gives its rows."""

  def __init__(self, rows):
    self.rows = rows


ROWS = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
EXACT = Answers(ROWS)


@pytest.fixture
def computing(monkeypatch):
  """Returns a function, (what OpenVINO gives, or why it cannot, --frozen_engine) -> the context of `EXACT`."""

  def make(found, choice="auto", modality="image", num_devices=1):
    def convert(network):
      if isinstance(found, str):
        raise inference_engine.Refused(found)
      return Answers(found)

    monkeypatch.setattr(inference_engine, "convert", convert)
    monkeypatch.setattr(inference_engine, "MIN_EXAMPLES", 20)
    monkeypatch.setattr(inference_engine, "_is_installed", lambda: True)
    monkeypatch.setattr(inference_engine, "fold", lambda network: network)
    predict = lambda network, indices: network.rows[indices]  # noqa: E731
    return inference_engine.computing(EXACT, predict, choice, modality, num_devices)

  return make


def _logged(caplog):
  return [record.getMessage() for record in caplog.records]


def test_auto_converts_once_enough_examples_are_asked_for(computing, caplog):
  caplog.set_level(logging.INFO)
  close = ROWS + np.float32(1e-6)
  with computing(close) as compute:
    np.testing.assert_array_equal(compute(ALL[:8]), ROWS[:8])
    np.testing.assert_array_equal(compute(ALL[8:16]), ROWS[8:16])
    np.testing.assert_array_equal(compute(ALL[16:30]), close[16:30])
    np.testing.assert_array_equal(compute(ALL[30:]), close[30:])
  converted, summary = _logged(caplog)
  assert converted.startswith("OpenVINO computes frozen features: they differ from TensorFlow's by at most 1e-06 of")
  assert summary == "features were computed by TensorFlow for 16 and OpenVINO for 24 examples"


@pytest.mark.parametrize("found", ["OpenVINO cannot convert the network (no such op)", ROWS + 1e-3, ROWS * np.nan])
def test_what_cannot_be_had_or_disagrees_is_left_to_tensorflow(computing, caplog, found):
  caplog.set_level(logging.INFO)
  with computing(found) as compute:
    for start in (0, 20):
      np.testing.assert_array_equal(compute(ALL[start : start + 20]), ROWS[start : start + 20])
  (why,) = _logged(caplog)
  assert why.startswith("TensorFlow computes frozen features: OpenVINO")
  with pytest.raises(UserError, match="--frozen_engine=openvino: OpenVINO"), computing(found, "openvino") as compute:
    compute(ALL[:4])


@pytest.mark.parametrize("found", [{"modality": "text"}, {"num_devices": 2}, {"choice": "tensorflow"}])
def test_tensorflow_computes_without_a_word_where_openvino_is_no_candidate(computing, caplog, found):
  caplog.set_level(logging.INFO)
  with computing(ROWS + 1, **found) as compute:
    np.testing.assert_array_equal(compute(ALL), ROWS)
  assert _logged(caplog) == []


def test_a_gpu_keeps_auto_at_tensorflow(computing, monkeypatch):
  monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["GPU:0"] if kind == "GPU" else [])
  with computing(ROWS + 1) as compute:
    np.testing.assert_array_equal(compute(ALL), ROWS)


def test_auto_needs_no_openvino(computing, monkeypatch):
  context = computing(ROWS + 1)
  monkeypatch.setattr(inference_engine, "_is_installed", lambda: False)
  with context as compute:
    np.testing.assert_array_equal(compute(ALL), ROWS)


def _texts():
  return Inputs.of("text", [" ".join(["the", *["film", "is", "good"] * (i % 5)]) for i in range(20)])


def _images(size):
  rng = np.random.default_rng(0)
  pixels = [rng.integers(0, 256, (size, size, 3)).astype("uint8") for _ in range(20)]
  return Inputs.of("image", [tf.io.encode_png(each).numpy() for each in pixels])


FORMS = {
  "bert": (tiny_presets.bert, _texts),
  "resnet": (lambda path: tiny_presets.resnet(path, 32), lambda: _images(32)),
  "BERT module": (tiny_modules.bert, _texts),
  "image module": (lambda path: tiny_modules.image(path, 16), lambda: _images(16)),
}


@pytest.mark.slow
@needs_openvino
@pytest.mark.parametrize("form", FORMS)
def test_features_are_tensorflows_in_the_order_of_the_examples(tmp_path, form):
  write, examples = FORMS[form]
  backbone = backbones.load(backbones.resolve(write(tmp_path / "backbone")), Assets(str(tmp_path), offline=True))
  network = keras.Model(backbone.network.input, backbone.network.output["features"])
  inputs = examples()
  exact = inference.predict(network, backbone, inputs, 8)
  found = inference.predict(inference_engine.convert(network), backbone, inputs, 8)
  assert exact.std(axis=0).max() > 1e-4
  np.testing.assert_allclose(found, exact, atol=1e-5 * heads.deviation(exact), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_constant_weights_give_the_same_features(tmp_path, form):
  write, examples = FORMS[form]
  backbone = backbones.load(backbones.resolve(write(tmp_path / "backbone")), Assets(str(tmp_path), offline=True))
  network = keras.Model(backbone.network.input, backbone.network.output["features"])
  folded = inference_engine.fold(network)
  assert (folded is not network) == (form == "resnet")
  exact = inference.predict(network, backbone, examples(), 8)
  np.testing.assert_allclose(
    inference.predict(folded, backbone, examples(), 8), exact, atol=1e-5 * heads.deviation(exact), rtol=1e-5
  )


@needs_openvino
def test_what_reads_strings_is_refused(tmp_path):
  backbone = backbones.load(backbones.resolve(tiny_modules.strings(tmp_path / "strings")), Assets(str(tmp_path), True))
  with pytest.raises(inference_engine.Refused, match="OpenVINO cannot convert the network"):
    inference_engine.convert(keras.Model(backbone.network.input, backbone.network.output["features"]))


@needs_openvino
def test_the_package_reports_nothing_over_the_network():
  inputs = keras.Input((4,))
  inference_engine.convert(keras.Model(inputs, keras.layers.Dense(2)(inputs)))
  assert sys.modules["openvino_telemetry"] is None
  assert sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__.endswith("telemetry_stub")


@pytest.mark.slow
@needs_openvino
def test_a_run_by_openvino_is_a_run_by_tensorflow(tmp_path, caplog, monkeypatch):
  """Probe and features below the stage that trains; then the same features serve a run by TensorFlow."""
  caplog.set_level(logging.INFO)
  flags = {
    "backbone": tiny_presets.resnet(tmp_path / "resnet", 32),
    "dataset": "images:" + tiny_data.colours(tmp_path / "colours"),
    "feature_cache": str(tmp_path / "features"),
    "train_stages": "stack1,head",
    "head_epochs": 5,
    "epochs": 2,
    "learning_rate": 1e-3,
    "export": False,
  }
  seen, compute = [], Features._per_example

  def spy(self):
    rows, used = compute(self), self.data.used_rows
    seen.append((rows[used], self.predict(self.model.features, used)))
    return rows

  monkeypatch.setattr(Features, "_per_example", spy)
  first = train.train_and_evaluate(Config(frozen_engine="openvino", **flags), tmp_path / "first")
  ((rows, exact),) = seen
  np.testing.assert_allclose(rows, exact, atol=inference_engine.TOLERANCE * heads.deviation(exact))
  lines = _logged(caplog)
  assert lines.count("features were computed by OpenVINO for 60 examples") == 1
  assert sum(line.startswith("OpenVINO computes frozen features") for line in lines) == 2
  caplog.clear()
  probe = Config(frozen_engine="tensorflow", recipe="probe", **flags)
  second = train.train_and_evaluate(dataclasses.replace(probe, epochs=0), tmp_path / "second")
  assert any(line.startswith("features: 60 of 60 examples read") for line in _logged(caplog))
  assert second["candidates"]["probe"]["loss"] == pytest.approx(first["candidates"]["probe"]["loss"], abs=1e-5)
  assert files.read_json(tmp_path / "first/config.json")["frozen_engine"] == "openvino"
