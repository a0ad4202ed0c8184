"""Step policies: which layers compute in which format, what is measured, and that inference stays float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_modules
import tiny_presets

from tl_app.backbones.backbone import Backbone
from tl_app.backbones.saved_model import SavedModelBackbone
from tl_app.backbones.spec import BackboneSpec
from tl_app.commands import train
from tl_app.compute import devices as devices_lib
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.model import graphs
from tl_app.training import precision
from tl_app.training.precision import StepPolicy


def _network():
  inputs = keras.Input((4,))
  x = keras.layers.Dense(8, activation="relu", name="dense")(inputs)
  features = keras.Input((8,))
  head = keras.Model(features, keras.layers.Dense(2, name="logits")(features), name="head")
  return keras.Model(inputs, head(x))


def test_what_is_on_the_head_or_replaces_it_computes_in_float32():
  rows, present = keras.Input((4,)), keras.Input((2,))
  tagged = keras.Model([rows, present], graphs.PerToken(name="per_token")(rows, present))
  unit = keras.Model(rows, keras.layers.UnitNormalization(name="l2_normalized")(rows))
  tail = keras.Model(rows, keras.layers.UnitNormalization(name="l2_normalized_features")(rows), name="tail")
  below = keras.Input((4,))
  whole = keras.Model(below, tail(below))
  x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
  exact = tagged([x, np.ones((2, 2))]), unit(x), whole(x)
  for network in (tagged, unit, whole):
    with precision.computing(network, "mixed_bfloat16"):
      found = tagged([x, np.ones((2, 2))]), unit(x), whole(x)
    for one, other in zip(exact, found):
      np.testing.assert_array_equal(one, other)


def test_an_embedding_is_looked_up_in_float32():
  ids = keras.Input((None,), dtype="int32")
  rows = keras.Model(ids, keras.layers.Dense(3)(keras.layers.Embedding(9, 4, name="table")(ids)))
  with precision.computing(rows, "mixed_bfloat16"):
    assert rows.get_layer("table")(np.ones((1, 2))).dtype == tf.float32
    assert rows(np.ones((1, 2))).dtype == tf.bfloat16


def _devices(count):
  return devices_lib.make("mirrored" if count > 1 else "single", count)


def _backbone(kind):
  kind_of_backbone = SavedModelBackbone if kind == "saved_model" else Backbone
  return kind_of_backbone(BackboneSpec("tiny", kind, "x"), None, None, {}, 1)


def test_inside_the_block_all_layers_but_the_head_compute_in_the_format():
  network, x = _network(), np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
  dense, head = network.get_layer("dense"), network.get_layer("head")
  exact = network(x)
  with precision.computing(network, "mixed_bfloat16"):
    assert dense(x).dtype == tf.bfloat16
    assert network(x).dtype == tf.float32
    assert not np.array_equal(network(x), exact)
    assert {variable.dtype for variable in network.variables} == {"float32"}
    with precision.computing(network, "float32"):
      np.testing.assert_array_equal(network(x), exact)
    assert dense(x).dtype == tf.bfloat16
    assert head(np.ones((1, 8), np.float32)).dtype == tf.float32
  np.testing.assert_array_equal(network(x), exact)


@pytest.mark.parametrize(
  ("flags", "kind", "gpu", "num_devices", "expected"),
  [
    ({}, "kerashub", False, 1, ["float32", "mixed_bfloat16"]),
    ({}, "kerashub", False, 2, ["float32", "mixed_bfloat16"]),
    ({}, "saved_model", False, 1, ["float32"]),
    ({}, "saved_model", True, 1, ["float32"]),
    ({"jit": "off"}, "kerashub", True, 1, ["float32", "mixed_bfloat16", "mixed_float16"]),
    ({"batch_tokens": 512}, "kerashub", True, 1, ["float32", "mixed_bfloat16", "mixed_float16"]),
    ({"precision": "mixed_float16"}, "kerashub", True, 1, ["mixed_float16", "mixed_float16 with XLA"]),
    ({"precision": "float32", "jit": "on"}, "kerashub", False, 1, ["float32 with XLA"]),
  ],
)
def test_candidates(flags, kind, gpu, num_devices, expected, monkeypatch):
  devices = _devices(num_devices)
  monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["GPU:0"] if gpu else [])
  policies = precision.candidates(
    *(Config(**flags).machine, _backbone(kind), devices), token_batches=flags.get("batch_tokens", 0) > 0
  )
  assert [str(policy) for policy in policies] == expected


def test_the_fastest_policy_that_keeps_the_loss_is_chosen_if_it_is_fast_enough():
  plain, half, xla = StepPolicy(), StepPolicy("mixed_bfloat16"), StepPolicy("mixed_float16", True)
  assert precision.fastest({plain: (1.0, 2.0), half: (0.7, 2.01), xla: (0.5, 2.02)}, plain) == xla
  assert precision.fastest({plain: (1.0, 2.0), half: (0.7, 2.01), xla: (0.5, 2.5)}, plain) == half
  assert precision.fastest({plain: (1.0, 2.0), half: (0.9, 2.0), xla: (0.5, float("nan"))}, plain) == plain


class ClassifierSteps:
  """Training steps of a classifier, which record the policies that they are compiled for."""

  def __init__(self, network, optimizer="adam"):
    self.network = network
    self.compiled = []
    self._optimizer = optimizer

  def compile(self, policy):
    """Compiles the network; it has no XLA."""
    if policy.jit:
      raise NotImplementedError("no XLA here")
    self.compiled.append(policy)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    self.network.compile(self._optimizer, loss, metrics=["accuracy"])


@pytest.mark.slow
def test_a_measurement_changes_no_variable(monkeypatch):
  network = _network()
  x, y = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32), np.arange(32) % 2
  dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).repeat()
  before, steps = [np.array(v) for v in network.variables], ClassifierSteps(network)
  plain, half, xla = policies = [StepPolicy(), StepPolicy("mixed_bfloat16"), StepPolicy(jit=True)]
  assert precision.choose(policies, steps, dataset, precision.MIN_STEPS - 1) == plain
  assert steps.compiled == []
  monkeypatch.setattr(precision, "MIN_GAIN", 0.0)
  assert precision.choose(policies, steps, dataset, precision.MIN_STEPS) in (plain, half)
  assert steps.compiled == [plain, half]
  measured = {False: (1.0, 2.0, 9.0), True: (0.5, 2.0, 60.5)}
  monkeypatch.setattr(precision, "measure", lambda policy, *_: measured[policy.jit])
  # 60 s to compile, once or for each of eight lengths, in 600 steps.
  assert precision.choose([plain, xla], steps, dataset, 600) == xla
  assert precision.choose([plain, xla], steps, dataset, 600, shapes=8) == plain
  for old, variable in zip(before, network.variables):
    np.testing.assert_array_equal(old, np.array(variable))


def test_the_noise_of_dropout_does_not_choose_the_policy():
  keras.utils.set_random_seed(3)
  inputs = keras.Input((4,))
  hidden = keras.layers.Dense(64, activation="relu", name="dense")(inputs)
  features = keras.Input((64,))
  head = keras.Model(features, keras.layers.Dense(2, name="logits")(features), name="head")
  network = keras.Model(inputs, head(keras.layers.Dropout(0.5, seed=0)(hidden)))
  steps, policies = ClassifierSteps(network, keras.optimizers.SGD(0.0)), [StepPolicy(), StepPolicy("mixed_bfloat16")]
  steps.compile(policies[0])
  x, y = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32), np.arange(8) % 2
  batches = [(x, y)] * precision.BATCHES
  with precision.computing(network, "mixed_bfloat16"):
    answers = network(x, training=False)
  expected = float(network.compute_loss(x, y, answers, training=False))
  assert precision.inference_loss(policies[1], network, batches) == pytest.approx(expected)
  plain, half = (precision.inference_loss(policy, network, batches) for policy in policies)
  assert plain != half and abs(plain - half) < precision.LOSS_TOLERANCE * plain
  trained = [precision.measure(policy, steps, batches)[1] for policy in policies]
  assert abs(trained[0] - trained[1]) > precision.LOSS_TOLERANCE * trained[0]


class RecordSizes(keras.Model):
  """A functional model that records the sizes of its training batches and does not train."""

  def __init__(self, inputs, outputs):
    super().__init__(inputs, outputs)
    self.sizes = []

  def train_on_batch(self, x, y, return_dict):
    """Returns the loss 1.5."""
    self.sizes.append((len(x["ids"]), len(y)))
    return {"loss": 1.5}


def test_each_device_is_measured_on_its_share_of_a_batch():
  with _devices(2).scope():
    inputs = {"ids": keras.Input((3,), name="ids")}
    network = RecordSizes(inputs, keras.layers.Dense(2)(inputs["ids"]))
  dataset = tf.data.Dataset.from_tensors(({"ids": np.zeros((8, 3))}, np.zeros(8))).repeat()
  assert precision.measure(StepPolicy(), ClassifierSteps(network), dataset)[1] == 1.5
  assert network.sizes == [(4, 4)] * (precision.BATCHES * precision.ROUNDS)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  return tiny_presets.reviews_run(tmp_path_factory.mktemp("precision")) | {
    "epochs": 1,
    "head_epochs": 3,
    "max_examples": 40,
    "learning_rate": 3e-3,
  }


@pytest.mark.slow
def test_a_run_trains_in_the_format_and_answers_in_float32(config, tmp_path):
  losses = {}
  for name in ("mixed_bfloat16", "float32"):
    flags = {"precision": name, "train_stages": "top:2", "export": name != "float32"}
    metrics = train.train_and_evaluate(Config(**config, **flags), tmp_path / name)
    losses[name] = metrics["candidates"]["fine_tuned"]["loss"]
    if flags["export"]:
      assert metrics["parity"]["max_probability_difference"] <= 1e-4
  assert losses["mixed_bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
  assert losses["mixed_bfloat16"] != losses["float32"]


@pytest.mark.slow
def test_half_precision_scales_its_loss_and_keeps_averages(config, tmp_path):
  flags = {"precision": "mixed_float16", "train_stages": "top:1", "export": False}
  metrics = train.train_and_evaluate(Config(**config, **flags), tmp_path / "run")
  losses = {name: metrics["candidates"][name]["loss"] for name in ("probe", "fine_tuned", "averaged")}
  assert np.isfinite(list(losses.values())).all()
  assert len(set(losses.values())) == 3


@pytest.mark.slow
def test_formats_and_xla_that_are_not_available_are_refused(config, tmp_path):
  module = tiny_modules.strings(tmp_path / "strings")
  with pytest.raises(UserError, match="keeps its own precision"):
    train.train_and_evaluate(Config(**config | {"backbone": module}, precision="mixed_bfloat16"), tmp_path / "run")
