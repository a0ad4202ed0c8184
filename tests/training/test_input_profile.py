"""--profile_input: the time of each part of a stream, and a run that gives the same weights with and without it."""

import json
import time

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tiny_data
import tiny_presets

from tl_app import files
from tl_app.commands import train
from tl_app.config import Config
from tl_app.data import pipeline
from tl_app.data.pipeline import Step
from tl_app.features import inference_engine
from tl_app.training import input_profile


def _slow(dataset, seconds):
  def wait(x):
    time.sleep(seconds)
    return x

  return dataset.map(lambda x: tf.ensure_shape(tf.numpy_function(wait, [x], tf.int64), []))


def _parts():
  order = tf.data.Dataset.range(10**6)
  return [
    Step("order", lambda _: order, 4),
    Step("read", lambda elements: _slow(elements, 0.001), 4),
    Step("decode", lambda elements: _slow(elements, 0.004), 4),
    Step("batch", lambda elements: elements.batch(4)),
  ]


@pytest.fixture(scope="module")
def slow_steps():
  return input_profile.measure(_parts(), lambda batch: time.sleep(0.06))


def test_the_summary_names_the_slowest_step_and_its_share(slow_steps):
  # 4 elements of a batch, 1 ms of reading and 4 ms of decoding each.
  assert list(slow_steps["input_steps"]) == ["order", "read", "decode", "batch"]
  assert slow_steps["input_steps"]["decode"] >= 0.015 > slow_steps["input_steps"]["read"] >= 0.003
  assert slow_steps["pipeline"] == pytest.approx(sum(slow_steps["input_steps"].values()))
  share = slow_steps["input_steps"]["decode"] / slow_steps["pipeline"]
  assert share > 0.5
  assert slow_steps["summary"].endswith(f"decode is the slowest step of the pipeline, {share:.0%} of it")


@pytest.mark.slow
def test_a_slow_step_hides_the_pipeline_and_a_fast_one_waits(slow_steps):
  assert slow_steps["ready"] >= 0.06 and slow_steps["beside"] >= slow_steps["wait"] + 0.06
  assert slow_steps["wait_share"] < 0.3
  fast = input_profile.measure(_parts(), lambda batch: None)
  assert fast["wait_share"] > 0.8 and fast["wait"] >= 0.015
  assert fast["summary"].startswith(f"{fast['wait_share']:.0%} of the step time is spent waiting for data; ")


def test_slow_batches_are_measured_on_few():
  assert [input_profile._num_batches(seconds) for seconds in (0.0, 0.2, 9.0)] == [48, 20, 6]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Returns {whether it was profiled: workdir} of the same run, with dropout."""
  root = tmp_path_factory.mktemp("input_profile")
  flags = tiny_presets.reviews_run(root) | {"head_epochs": 2, "epochs": 2, "export": False, "learning_rate": 3e-3}
  for profiled in (False, True):
    train.train_and_evaluate(Config(**flags, profile_input=profiled), root / str(profiled))
  return root


@pytest.mark.slow
def test_a_profiled_run_gives_the_same_weights(runs):
  logs = [
    [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()] for name in ("False", "True")
  ]
  assert len(logs[0]) == 4
  for one, other in zip(*logs):
    assert one | {"seconds": 0} == other | {"seconds": 0}
  metrics = [files.read_json(runs / name / "metrics.json") for name in ("False", "True")]
  assert metrics[0]["candidates"] == metrics[1]["candidates"] and metrics[0]["test"] == metrics[1]["test"]
  one, other = (_weights(runs / name) for name in ("False", "True"))
  assert one.keys() == other.keys()
  for name, values in one.items():
    np.testing.assert_array_equal(other[name], values, err_msg=name)


@pytest.mark.slow
def test_nothing_is_measured_if_all_features_are_stored(tmp_path, monkeypatch, caplog):
  caplog.set_level("INFO")
  passes, measure = [], input_profile.measure

  def spy(parts, step):
    batch = next(iter(pipeline.whole(parts)))
    passes.append((len(batch[1]), step(batch).shape[0]))
    return measure(parts, lambda batch: None)

  monkeypatch.setattr(input_profile, "measure", spy)
  backbone, data = tiny_presets.resnet(tmp_path / "resnet", 32), "images:" + tiny_data.colours(tmp_path / "colours")
  config = Config(
    backbone=backbone,
    dataset=data,
    cache_dir=str(tmp_path),
    recipe="probe",
    head_epochs=2,
    export=False,
    profile_input=True,
  )
  folded, predict = [], inference_engine.Folded.predict_on_batch
  monkeypatch.setattr(
    inference_engine.Folded, "predict_on_batch", lambda self, batch: folded.append(len(batch)) or predict(self, batch)
  )
  train.train_and_evaluate(config, tmp_path / "first")
  assert passes == [(64, 64)] and folded[0] == 64
  train.train_and_evaluate(config, tmp_path / "second")
  assert len(passes) == 1 and "--profile_input: all features are stored" in caplog.text
  assert "input" not in files.read_json(tmp_path / "second" / "plan.json")


def _weights(workdir):
  """Returns {name: values} of the weights of the selected model."""
  found = {}
  with h5py.File(workdir / "checkpoints" / "model.weights.h5") as file:
    file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
  return found


@pytest.mark.slow
def test_the_measurement_is_in_the_plan_and_in_the_report(runs):
  assert "input" not in files.read_json(runs / "False" / "plan.json")
  found = files.read_json(runs / "True" / "plan.json")["input"]
  assert found["phase"] == "fine_tune" and list(found["input_steps"]) == ["order", "read", "tokenize"]
  assert found["ready"] > 0 and 0 <= found["wait"] < found["beside"]
  page = (runs / "True" / "report.html").read_text()
  assert found["summary"] in page and "Input pipeline" in page
  assert "Input pipeline" not in (runs / "False" / "report.html").read_text()
