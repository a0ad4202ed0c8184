"""Stages: exactly what the plan says trains, on opaque and native backbones, and the audit sees what is wrong."""

import pathlib
import types

import keras
import numpy as np
import pytest
import tiny_modules
import warm_process

from tl_app.backbones import native_stages, saved_model
from tl_app.backbones.backbone import Backbone
from tl_app.backbones.spec import BackboneSpec
from tl_app.compute import devices
from tl_app.config import Config
from tl_app.errors import RunFailed, UserError
from tl_app.model import audit, graphs, stages
from tl_app.model import model as model_lib
from tl_app.model.variables import matrix_shape
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.tasks import SINGLE_LABEL
from tl_app.training.compiling import PhaseSteps

TASK = SINGLE_LABEL.with_codec(names=("a", "b", "c"))


def _native(dropout=0.5):
  """Three convolutions with BatchNorm and dropout, as a native backbone."""
  keras.utils.set_random_seed(0)
  inputs = x = keras.Input((16, 16, 3), name="image")
  spec = []
  for name in ("stem", "stage1", "stage2"):
    x = keras.layers.Conv2D(8, 3, strides=2, name=f"{name}_conv")(x)
    x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    x = keras.layers.Dropout(dropout, name=f"{name}_dropout")(keras.layers.ReLU(name=f"{name}_relu")(x))
    spec.append((name, f"{name}_"))
  network = keras.Model(inputs, {"features": keras.layers.GlobalAveragePooling2D()(x)})
  record = BackboneSpec("tiny", "applications", "Tiny", modality="image", stages=tuple(spec))
  return Backbone(record, None, network, native_stages.stage_weights(network, record)[0], 8)


@pytest.fixture(params=["native", "opaque"])
def model(request, tmp_path):
  if request.param == "native":
    return model_lib.build(_native(), TASK)
  keras.utils.set_random_seed(0)
  directory = tiny_modules.image(tmp_path / "module", size=16)
  return model_lib.build(saved_model.load(directory, BackboneSpec("tiny", "saved_model", directory)), TASK)


def _phase(model, **flags):
  facts = Facts(32, 3, 3e-4, {name: tuple(v.path for v in vs) for name, vs in model.backbone.stages.items()})
  config = Config(recipe=flags.pop("recipe", "lp_ft"), epochs=1, batch_size=16, learning_rate=1e-2, **flags)
  return recipes.plan(config, facts)[-1]


def _fit(model, phase):
  rng = np.random.default_rng(0)
  x, y = rng.uniform(size=(32, 16, 16, 3)).astype("f"), rng.integers(0, 3, 32).astype("int32")
  model.head.get_layer("logits").kernel.assign(rng.normal(size=(8, 3)))
  stages.set_trainable(model, phase)
  before = audit.state(model, phase)
  network = graphs.training_network(model, phase)
  PhaseSteps(network, phase, model, y).compile()
  network.fit(x, y, batch_size=16, verbose=0)
  return before, audit.audit(model, before)


def _names(model, *positions):
  names = list(model.backbone.stages)
  return [names[i] for i in positions]


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["none", "top:1", "all"])
def test_frozen_stages_stay_to_the_bit_and_the_rest_moves(model, choice):
  phase = _phase(model, train_stages=choice)
  _, changes = _fit(model, phase)
  trained = {"none": 0, "top:1": 1, "all": len(model.backbone.stages)}[choice]
  expected = {*list(model.backbone.stages)[len(model.backbone.stages) - trained :], "head"}
  assert {name for name, change in changes.items() if change["changed"]} == expected
  # BatchNorm is frozen by default: its statistics stay in the stages that train too.
  for name in expected - {"head"}:
    assert changes[name]["changed"] == changes[name]["trainable"] < changes[name]["variables"]


@pytest.mark.slow
def test_batch_statistics_of_several_devices_are_those_of_the_whole_batch():
  found = []
  for count in (1, 2):
    with devices.make("mirrored" if count > 1 else "single", count).scope():
      model = model_lib.build(_native(dropout=0.0), TASK)
      _, changes = _fit(model, _phase(model, train_stages="all", bn="train", optimizer="sgd"))
    assert all(change["changed"] for change in changes.values())
    found.append([keras.ops.convert_to_numpy(variable) for variable in model.network.variables])
  for one, two in zip(*found):
    np.testing.assert_allclose(two, one, atol=1e-5)


@pytest.mark.slow
def test_a_regular_expression_chooses_variables(model):
  phase = _phase(model, train_stages="kernel")
  chosen = stages.selected(model, phase)
  assert {v.path.split("/")[-1] for name, vs in chosen.items() if name != "head" for v in vs} == {"kernel"}
  _, changes = _fit(model, phase)
  assert all(change["changed"] == 1 for name, change in changes.items() if name != "head")


@pytest.mark.slow
def test_bias_norm_trains_no_kernel(model):
  phase = _phase(model, recipe="bias_norm")
  chosen = [v for name, vs in stages.selected(model, phase).items() if name != "head" for v in vs]
  assert chosen and all(stages.is_bias_or_norm(v) for v in chosen)
  _, changes = _fit(model, phase)
  assert all(c["changed"] == c["trainable"] for c in changes.values())


@pytest.mark.slow
def test_lora_moves_kernels_by_its_rank(model):
  phase = _phase(model, recipe="lora", lora_rank=2)
  kernels = [v for name, vs in stages.selected(model, phase).items() if name != "head" for v in vs]
  before = [v.numpy() for v in kernels]
  _fit(model, phase)
  assert kernels
  for variable, old in zip(kernels, before):
    change = (variable.numpy() - old).reshape(matrix_shape(old.shape))
    singular = np.linalg.svd(change, compute_uv=False)
    assert singular[0] > 1e-5
    assert singular[2] < 1e-2 * singular[0]


@pytest.mark.slow
def test_lora_without_kernels_is_refused(model):
  # A rank at which factors are no smaller than the kernels.
  phase = _phase(model, recipe="lora", lora_rank=500)
  with pytest.raises(
    UserError, match="--lora_rank=500: updates of this rank are no smaller than the kernels of the stages stem"
  ):
    stages.selected(model, phase)


def _statistics(model):
  return {name: [v.numpy() for v in vs if id(v) in model.statistics] for name, vs in model.backbone.stages.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("bn", "choice", "moving"),
  [
    ("frozen", "all", 0),
    ("train_unfrozen", "all", 3),
    ("train", "all", 3),
    ("train_unfrozen", "top:1", 1),
    ("train", "top:1", 3),
  ],
)
def test_batch_norm_policy(model, bn, choice, moving):
  opaque = model.backbone.single_mode
  if opaque and moving:
    # One mode for all; of `train_unfrozen` only where every stage trains.
    moving = len(model.backbone.stages) if choice == "all" or bn == "train" else 0
  phase = _phase(model, bn=bn, train_stages=choice)
  before = _statistics(model)
  _fit(model, phase)
  after = _statistics(model)
  moved = [n for n in before if any((a != b).any() for a, b in zip(before[n], after[n]))]
  modes = stages.batch_norm_modes(model, phase)
  assert moved == [n for n in before if modes[n] == "batch"]
  assert len(moved) == moving


def test_the_trunk_is_deterministic():
  model = model_lib.build(_native(), TASK)
  model.head.get_layer("logits").kernel.assign(np.random.default_rng(1).normal(size=(8, 3)))
  x = np.random.default_rng(0).uniform(size=(4, 16, 16, 3)).astype("f")
  phase = _phase(model, train_stages="top:1")
  stages.set_trainable(model, phase)
  network = graphs.training_network(model, phase)
  quiet = np.asarray(network(x, training=False))
  assert (np.asarray(network(x, training=True)) != quiet).any()
  # Without the dropout of the tail nothing random is left: that of the two frozen stages is off.
  model.backbone.network.get_layer("stage2_dropout").rate = 0.0
  np.testing.assert_array_equal(network(x, training=True), quiet)
  np.testing.assert_array_equal(model.network(x, training=False), quiet)


def test_the_audit_catches_a_frozen_variable_that_moved(model):
  phase = _phase(model, train_stages="top:1")
  stages.set_trainable(model, phase)
  before = audit.state(model, phase)
  (lowest,) = _names(model, 0)
  variable = model.stages[lowest][0]
  value = variable.numpy()
  value.flat[0] = np.nextafter(value.flat[0], np.float32(np.inf))
  variable.assign(value)
  with pytest.raises(RunFailed, match=f"audit: 1 frozen variable of stage {lowest} changed"):
    audit.audit(model, before)


def test_the_audit_catches_a_stage_that_did_not_train(model):
  phase = _phase(model, train_stages="top:1")
  stages.set_trainable(model, phase)
  with pytest.raises(RunFailed, match="should have trained, but none of its"):
    audit.audit(model, audit.state(model, phase))


@pytest.mark.slow
def test_a_wrong_freeze_is_caught(model):
  """What Keras does not warn about: `trainable` changed behind the plan."""
  phase = _phase(model, train_stages="top:1")
  stages.set_trainable(model, phase)
  before = audit.state(model, phase)
  everything = _phase(model, train_stages="all")
  model.head.get_layer("logits").kernel.assign(np.ones((8, 3)) * np.arange(3))
  stages.set_trainable(model, everything)
  rng = np.random.default_rng(0)
  x, y = rng.uniform(size=(32, 16, 16, 3)), rng.integers(0, 3, 32)
  PhaseSteps(model.network, everything, model, y).compile()
  model.network.fit(x, y, batch_size=16, verbose=0)
  with pytest.raises(RunFailed, match="frozen variables of stage"):
    audit.audit(model, before)


TWO_DEVICES = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/model']
import test_stages, tiny_modules
from tl_app.compute import devices
from tl_app.model import audit
from tl_app.model import model as model_lib
from tl_app.backbones import saved_model
from tl_app.backbones.spec import BackboneSpec
from tl_app.errors import RunFailed
mirrored = devices.make("mirrored", 2)
module = tiny_modules.image(sys.argv[2], size=16)
for opaque in (False, True):
  with mirrored.scope():
    loaded = saved_model.load(module, BackboneSpec("tiny", "saved_model", module)) if opaque else test_stages._native()
    model = model_lib.build(loaded, test_stages.TASK)
    before, changes = test_stages._fit(model, test_stages._phase(model, train_stages="top:1"))
    print(sum(bool(change["changed"]) for change in changes.values()), "stages changed")
    for stage in (next(iter(model.stages)), "head"):
      variable = model.stages[stage][0]
      second = getattr(variable, "_value", variable).values[1]
      kept = second.numpy()
      second.assign(kept + 1)
      try:
        audit.audit(model, before)
      except RunFailed as failure:
        print(failure)
      second.assign(kept)
"""


@pytest.mark.slow
def test_the_audit_catches_a_device_that_went_its_own_way(tmp_path):
  # Devices are chosen before TensorFlow starts.
  done = warm_process.run("-c", TWO_DEVICES, str(pathlib.Path(__file__).parents[1]), str(tmp_path / "module"))
  assert done.returncode == 0, done.stderr
  lines = [line for line in done.stdout.splitlines() if "stage" in line]
  assert [line.partition(" (")[0] for line in lines] == [
    "2 stages changed",
    "audit: devices disagree on 1 variable of stage stem",
    "audit: devices disagree on 1 variable of stage head",
  ] * 2


def _one_layer_of_two_stages():
  """A native backbone whose network is one layer that holds both of its stages, as KerasHub's ViT."""

  class Encoder(keras.layers.Layer):
    def build(self, shape):
      self.low, self.high = keras.layers.Dense(8, name="low"), keras.layers.Dense(8, name="high")
      self.low.build((None, shape[-1]))
      self.high.build((None, 8))

    def call(self, pixels):
      return self.high(self.low(keras.ops.mean(pixels, axis=(1, 2))))

  keras.utils.set_random_seed(0)
  inputs = keras.Input((16, 16, 3), name="image")
  network = keras.Model(inputs, {"features": Encoder(name="encoder")(inputs)})
  record = BackboneSpec("tiny", "kerashub", "Tiny", modality="image")
  members = {name: [w for w in network.weights if f"/{name}/" in w.path] for name in ("low", "high")}
  return Backbone(record, None, network, members, 8)


def test_stages_within_one_layer_train_in_the_whole_network():
  model = model_lib.build(_one_layer_of_two_stages(), TASK)
  assert not model.backbone.can_split("high")
  with pytest.raises(ValueError, match="encoder is one layer across it"):
    model.backbone.split("high")
  _, changes = _fit(model, _phase(model, train_stages="top:1"))
  assert {name: change["changed"] for name, change in changes.items()} == {"low": 0, "high": 2, "head": 2}


def _variable(path, *shape):
  return types.SimpleNamespace(path=path, shape=shape)


@pytest.mark.parametrize(
  ("variable", "small", "kernel", "decays"),
  [
    (_variable("layer_0_attention/query/bias", 12, 32), True, False, False),
    (_variable("transformer/layer_0/self_attention/query/bias", 2, 16), True, False, False),
    (_variable("layer_0_attention/query/kernel", 384, 12, 32), False, True, True),
    (_variable("norm/gamma", 1, 64), True, False, False),
    (_variable("conv/bias_1", 64), True, False, False),
    (_variable("unbiased/kernel", 64, 64), False, True, True),
    (_variable("image_embedder/blocks_0/dense/kernel", 64, 64), False, True, True),
    (_variable("bert/word_embeddings/embeddings", 512, 64), False, False, True),
    (_variable("patch_embedding/kernel", 8, 8, 3, 64), False, False, True),
    (_variable("depthwise/kernel", 3, 3, 64, 1), False, False, True),
  ],
)
def test_what_is_a_bias_and_what_a_kernel(variable, small, kernel, decays):
  assert stages.is_bias_or_norm(variable) == small
  assert stages.is_kernel(variable, "stage", 2) == kernel
  assert stages.decays(variable) == decays


def test_what_has_moved_is_asked_of_every_stage_that_trains(model):
  phase = _phase(model, train_stages="top:1")
  stages.set_trainable(model, phase)
  before = audit.state(model, phase)
  assert not audit.has_moved(model, before)
  (top,) = _names(model, -1)
  for name in (top, "head"):
    assert not audit.has_moved(model, before)
    variable = next(v for v in model.stages[name] if v.trainable)
    variable.assign(variable + 1.0)
  assert audit.has_moved(model, before)
