"""--batch_size=auto: the same run in microbatches, what it measures and prints, and what it refuses."""

import dataclasses
import json

import pytest
import tensorflow as tf
import tiny_data
import tiny_features
import tiny_modules
from absl import flags
from absl.testing import flagsaver

from tl_app import config as config_lib
from tl_app import files
from tl_app.commands import benchmark, cli, evaluate, export, train
from tl_app.compute import devices, memory
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.training import batch_size

GB = 10**9


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  root = tmp_path_factory.mktemp("batch_size")
  return Config(
    backbone=tiny_modules.image(root / "image"),
    dataset="images:" + tiny_data.colours(root / "colours"),
    cache_dir=str(root / "cache"),
    image_size=16,
    epochs=2,
    head_epochs=3,
    learning_rate=3e-3,
    export=False,
  )


def _log(workdir):
  return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_in_microbatches_gives_the_metrics_of_a_run_on_whole_batches(config, tmp_path, monkeypatch, caplog):
  whole = train.train_and_evaluate(config, tmp_path / "whole")
  # 4 GB, and 1 for each example.
  monkeypatch.setattr(memory, "resident", lambda: GB)
  monkeypatch.setattr(memory, "available", lambda: 15 * GB)
  sizes = iter([1, 2, 4] * 2)
  monkeypatch.setattr(memory, "peak", lambda step: step() is None or (4 + next(sizes)) * GB)
  caplog.set_level("INFO")
  auto = dataclasses.replace(config, batch_size="auto")
  split = train.train_and_evaluate(auto, tmp_path / "split")
  plan = files.read_json(tmp_path / "split" / "plan.json")
  assert [phase["microbatches"] for phase in plan["phases"]] == [1, 4]
  assert [phase["steps_per_epoch"] for phase in plan["phases"]] == [2, 2]
  assert plan["batch_size"]["training_step"] == {
    "examples": 8,
    "of": 32,
    "positions": 1,
    "why": "16 take about 19.00 GB of 12.00 GB, 80% of the free memory",
  }
  assert plan["batch_size"]["forward_pass"]["examples"] == 8
  assert "--batch_size=auto: a training step of 32 examples, 8 at a time: 16 take about" in caplog.text
  for name in ("fine_tuned", "averaged"):
    assert split["candidates"][name]["loss"] == pytest.approx(whole["candidates"][name]["loss"], abs=1e-5)
  logs = [_log(tmp_path / name) for name in ("whole", "split")]
  assert [sorted(line) for line in logs[0]] == [sorted(line) for line in logs[1]] and len(logs[0]) == 5
  for one, other in zip(*logs):
    assert {name: other[name] for name in one if name != "seconds"} == pytest.approx(
      {name: value for name, value in one.items() if name != "seconds"}, abs=1e-5
    )
  assert files.read_json(tmp_path / "split" / "config.json")["batch_size"] == "auto"
  taken, predict = [], evaluate.inference.predict
  monkeypatch.setattr(evaluate.inference, "predict", lambda *args, **kw: taken.append(args[3]) or predict(*args, **kw))
  for workdir, metrics in ((tmp_path / "split", split), (tmp_path / "whole", whole)):
    assert evaluate.evaluate(workdir, {}, "")["test"]["accuracy"] == metrics["test"]["accuracy"]
  assert taken[0] == 8 < taken[1]
  proof = {"num_examples": 0, "label_flips": 0, "max_probability_difference": 0.0}
  monkeypatch.setattr(
    export.parity, "export_and_prove", lambda *_, batch_size, about: proof | {"num_examples": batch_size}
  )
  assert export.export(tmp_path / "split", "")[1]["num_examples"] == 8


@pytest.mark.parametrize("most", [5, 1])
def test_a_gpu_is_measured_from_the_largest_size_downwards(monkeypatch, most):
  tried = []

  def step(size):
    tried.append(size)
    if size > most:
      raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

  monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["GPU:0"])
  size, why = batch_size._largest(32, "a training step", step, devices.make("single", 0))
  assert size == {5: 4, 1: 1}[most] and tried == [32, 16, 8, 4, 2, 1][: len(tried)]
  assert why == f"{2 * size} do not fit into the GPU's memory"


def test_an_error_says_that_not_even_one_example_fits(monkeypatch):
  monkeypatch.setattr(memory, "resident", lambda: GB)
  monkeypatch.setattr(memory, "available", lambda: 5 * GB)
  monkeypatch.setattr(memory, "peak", lambda step: 9 * GB)
  message = "memory does not hold 1 example of a training step at a time: 1 take about 8.00 GB of 4.00 GB, 80%"
  with pytest.raises(UserError, match=message):
    batch_size._largest(32, "a training step", lambda size: None, devices.make("single", 0))


def test_the_largest_batch_is_the_longest_texts():
  model = tiny_features.model()
  lengths = [3, 9, 1, 5, 7]
  data = tiny_features.data([lengths], model.backbone, targets=lengths)
  inputs, targets = batch_size._largest_batch(data, model, 3)
  assert inputs.numpy().tolist() == targets.tolist() == [5, 7, 9]
  inputs, targets = batch_size._largest_batch(data, model, 7)
  assert inputs.numpy().tolist() == targets.tolist() == [1, 3, 5, 7, 7, 9, 9]


def test_it_is_refused_in_recipes_and_commands_that_do_not_use_it(tmp_path):
  config = Config(workdir=str(tmp_path), backbone="b", dataset="digits", batch_size="auto")
  config_lib.validate(config)
  assert config_lib.from_json(config_lib.to_json(config)) == config and config.examples_per_step == 32
  with pytest.raises(UserError, match="--batch_size=auto does nothing with --recipe=contrastive"):
    config_lib.validate(dataclasses.replace(config, recipe="contrastive"))
  with pytest.raises(UserError, match="--batch_size='automatic' is not of type int"):
    config_lib.validate(dataclasses.replace(config, batch_size="automatic"))
  with pytest.raises(UserError, match="--batch_size=auto does nothing in benchmark"):
    benchmark.measure(config, "stages", 1, 1)


def test_the_flag_takes_a_number_or_auto():
  if "batch_size" not in cli.FLAGS:
    cli.define_run()
  with flagsaver.flagsaver():
    cli.FLAGS(["train", "--workdir=w", "--backbone=b", "--dataset=digits", "--batch_size=auto"])
    assert cli.config_from_flags().batch_size == "auto"
    cli.FLAGS(["train", "--batch_size=16"])
    assert cli.config_from_flags().batch_size == 16
    with pytest.raises(flags.Error, match="--batch_size=automatic"):
      cli.FLAGS(["train", "--batch_size=automatic"])


@pytest.mark.parametrize(
  "error", [tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9]"), MemoryError()]
)
def test_the_message_about_full_memory_names_the_flags(error):
  assert cli.machine_error(error) == "out of memory: use --batch_size=auto, or lower --max_length or --image_size"


@pytest.mark.slow
def test_more_batches_per_update_than_the_phase_has_are_refused(config, tmp_path):
  flags = {"accumulate_steps": 100, "recipe": "lp_ft", "epochs": 2}
  with pytest.raises(UserError, match="--accumulate_steps=100, but phase fine_tune has .* no update would be made"):
    train.train_and_evaluate(dataclasses.replace(config, **flags), tmp_path / "run")
