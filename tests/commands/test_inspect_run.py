"""What a run changed: its export beside the original backbone, opaque and native, one device and two."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_data
import tiny_modules
import warm_process

from tl_app import config as config_lib
from tl_app import files, workdir
from tl_app.commands import inspect_run, train
from tl_app.config import Config
from tl_app.errors import RunFailed, UserError
from tl_app.training import selection

pytestmark = pytest.mark.slow

# A probe that has hardly trained, so that fine-tuning is selected.
WEAK_PROBE = {"head_epochs": 1, "head_learning_rate": 1e-6}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Tiny backbones, one of each kind, and their data: {name: (backbone, dataset)}; and the root."""
  import keras_hub

  root = tmp_path_factory.mktemp("world")
  keras.utils.set_random_seed(0)
  dims = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 16}
  network = keras_hub.models.BertBackbone(len(tiny_modules.VOCABULARY), max_sequence_length=16, **dims)
  network.save_to_preset(str(root / "native"))
  keras_hub.models.BertTokenizer(list(tiny_modules.VOCABULARY), True).save_to_preset(str(root / "native"))
  colours = "images:" + tiny_data.colours(root / "colours", per_class=30)
  return {
    "root": root,
    "opaque": (tiny_modules.image(root / "opaque"), colours),
    "native": (str(root / "native"), "table:" + tiny_data.reviews(root / "reviews.csv", n=60)),
  }


def configuration(world, kind, **flags):
  backbone, dataset = world[kind]
  size = 16 if kind == "opaque" else 0
  defaults = {"epochs": 10, "learning_rate": 3e-2, "ema": 0.0, "validation_fraction": 0.3} | WEAK_PROBE
  return Config(
    backbone=backbone, dataset=dataset, image_size=size, cache_dir=str(world["root"] / "cache"), **defaults | flags
  )


@pytest.fixture(scope="module")
def tuned(world):
  """Returns the workdir of a run on the opaque backbone in which one stage was trained and the result was selected."""
  config = configuration(world, "opaque", train_stages="block_1,head")
  assert train.train_and_evaluate(config, world["root"] / "tuned")["selected"] == "fine_tuned"
  return world["root"] / "tuned"


def rows(found):
  """Returns {stage: (variables, identical, planned, trained, statistics)}."""
  return {s.name: (s.variables, s.identical, s.planned, s.trained, s.statistics) for s in found.stages}


def test_one_stage_of_a_saved_model(tuned):
  found = inspect_run.compare(tuned)
  still = (5, 5, 0, 0, 0)
  assert rows(found) == {"stem": still, "block_0": still, "block_1": (5, 2, 3, 3, 0), "top": still}
  trained = found.stages[2]
  assert trained.parameters == 3 * 3 * 8 * 8 + 4 * 8 and 0 < trained.moved <= trained.parameters - 16
  assert trained.largest > 1e-3 and found.stages[0].largest == 0
  inspect_run.require_agreement(found)
  text = inspect_run.table(found)
  assert (
    text.splitlines()[-1] == "agrees with the plan: 17 frozen variables identical to the bit, 3 of 3 that train changed"
  )
  assert len(text.splitlines()) == 8


def test_a_candidate_that_was_not_selected_is_compared_by_its_weights(tuned):
  found = inspect_run.compare(tuned, candidate="probe")
  inspect_run.require_agreement(found)
  assert all(stage.identical == stage.variables for stage in found.stages)
  assert inspect_run.table(found).endswith("to the bit; --candidate=fine_tuned shows what fine-tuning changed")
  with pytest.raises(UserError, match="has no such candidate; it has fine_tuned, probe"):
    inspect_run.compare(tuned, candidate="averaged")


def test_the_export_names_the_stage_of_each_variable(tuned):
  written = files.read_json(tuned / "export" / workdir.EXPORT_FACTS)["stages"]
  served = tf.saved_model.load(str(tuned / "export"))._variables
  assert list(written) == ["stem", "block_0", "block_1", "top", "head"]
  positions = [position for members in written.values() for _, position in members]
  assert sorted(positions) == list(range(len(served)))
  for members in written.values():
    for path, position in members:
      assert served[position].name.partition(":")[0].endswith(path)


# Model selection is not what is tested here: fine-tuning is selected whatever its score.
FORCED = """
import dataclasses
import sys
from tl_app import config
from tl_app.commands import train
from tl_app.training import selection
select = selection.select
selection.select = lambda candidates, *rest: dataclasses.replace(select(candidates, *rest), best=candidates[-1])
train.train_and_evaluate(config.from_json(open(sys.argv[1]).read()), sys.argv[2])
"""


def test_one_stage_of_a_native_network_on_two_devices(world):
  root = world["root"]
  flags = {"train_stages": "layer_0,head", "strategy": "mirrored", "num_devices": 2, "epochs": 1}
  files.write_text(root / "mirrored.json", config_lib.to_json(configuration(world, "native", **flags)))
  done = warm_process.run("-c", FORCED, str(root / "mirrored.json"), str(root / "mirrored"))
  assert done.returncode == 0, done.stderr[-2000:]
  assert files.read_json(root / "mirrored/metrics.json")["environment"]["replicas"] == 2
  found = inspect_run.compare(root / "mirrored")
  inspect_run.require_agreement(found)
  for name, (variables, identical, planned, trained, _) in rows(found).items():
    assert (identical, planned) == ((0, variables) if name == "layer_0" else (variables, 0)), name
    assert trained == planned


def test_lora_and_batch_statistics(world):
  directory = world["root"] / "lora"
  config = configuration(world, "opaque", recipe="lora", lora_rank=2, bn="train_unfrozen", learning_rate=0.1)
  assert train.train_and_evaluate(config, directory)["selected"] == "fine_tuned"
  found = inspect_run.compare(directory)
  inspect_run.require_agreement(found)
  assert rows(found)["block_0"] == (5, 2, 1, 1, 2)
  assert "8 moving statistics free to move" in inspect_run.table(found)


def copy_of(tuned, tmp_path):
  """Returns a workdir with what `compare` reads, the export shared: plan.json and metrics.json can be changed."""
  paths = workdir.Workdir(tmp_path / "copy")
  for path in ("config.json", "plan.json", "metrics.json", "checkpoints/task.json"):
    files.write_text(paths.root / path, (tuned / path).read_text())
  paths.weights.symlink_to(tuned / "checkpoints/model.weights.h5")
  paths.export.symlink_to(tuned / "export")
  return paths


def test_another_plan_than_what_happened_is_seen(tuned, tmp_path):
  paths = copy_of(tuned, tmp_path)
  plan = files.read_json(paths.plan)
  plan["phases"][-1]["train_stages"] = ["block_0", "head"]
  files.write_json(paths.plan, plan)
  found = inspect_run.compare(paths.root)
  assert found.miscounted == {"block_0": ("fine_tune", 0, 3), "block_1": ("fine_tune", 3, 0)}
  last = inspect_run.table(found).splitlines()[-1]
  assert "stage block_0 should have trained, but none of its variables changed" in last
  assert "3 frozen variables of stage block_1 changed (net/blocks_1/" in last
  with pytest.raises(RunFailed, match="the export does not agree with the plan: "):
    inspect_run.require_agreement(found)


def test_if_the_probe_is_selected_nothing_may_have_changed(tuned, tmp_path):
  paths = copy_of(tuned, tmp_path)
  files.write_json(paths.metrics, files.read_json(paths.metrics) | {"selected": "probe", "selected_candidate": "probe"})
  with pytest.raises(RunFailed, match="3 frozen variables of stage block_1 changed"):
    inspect_run.require_agreement(inspect_run.compare(paths.root))


def test_a_change_of_one_bit_is_seen():
  value = np.array([0.0, 1.0], np.float32)
  assert np.count_nonzero(inspect_run._bits(value) != inspect_run._bits(np.nextafter(value, np.float32(2)))) == 2
  assert np.count_nonzero(inspect_run._bits(value) != inspect_run._bits(value * np.float32(-1))) == 2


def test_a_run_without_an_export_or_with_another_backbone_is_refused(world, tuned, tmp_path):
  paths = copy_of(tuned, tmp_path)
  paths.export.unlink()
  with pytest.raises(UserError, match="/export holds no export: python -m tl_app.export --workdir="):
    inspect_run.compare(paths.root)
  paths.export.symlink_to(tuned / "export")
  other = tiny_modules.image(tmp_path / "other", names=("net/stem", "net/blocks_0", "net/blocks_1", "net/blocks_2"))
  config = dataclasses.replace(configuration(world, "opaque", train_stages="block_1,head"), backbone=other)
  files.write_json(paths.config, dataclasses.asdict(config))
  with pytest.raises(UserError, match="in stage "):
    inspect_run.compare(paths.root)


def test_inspect_prints_the_comparison(tuned):
  command = ["-m", "tl_app.inspect", f"--workdir={tuned}"]
  done = warm_process.run(*command)
  assert done.returncode == 0 and "Traceback" not in done.stderr
  assert done.stdout.splitlines()[-1].startswith("agrees with the plan: 17 frozen variables")
  refused = warm_process.run(*command, "--backbone=minilm_l6.pypi")
  assert refused.returncode == 2 and "--workdir names a run" in refused.stderr


def test_if_an_earlier_phase_is_selected_the_later_ones_have_left_nothing(world, monkeypatch):
  select = selection.select

  def last(candidates, *rest):
    return dataclasses.replace(select(candidates, *rest), best=candidates[-1])

  monkeypatch.setattr(selection, "better", lambda candidates, *_: candidates[0])
  monkeypatch.setattr(selection, "select", last)
  directory = world["root"] / "gradual"
  metrics = train.train_and_evaluate(configuration(world, "opaque", recipe="gradual", epochs=2), directory)
  assert metrics["selected_phase"] == "unfreeze_1" and metrics["selected"] == "fine_tuned"
  found = inspect_run.compare(directory)
  inspect_run.require_agreement(found)
  planned = [stage.name for stage in found.stages if stage.planned]
  assert planned == [stage.name for stage in found.stages if stage.identical < stage.variables] == ["block_1", "top"]
