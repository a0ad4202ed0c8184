"""Number formats and XLA: what changes within a block, what is measured, and that answers stay float32."""

import types

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
from tl_app.compute import precision
from tl_app.compute.precision import Way
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.model import graphs


def _network():
  inputs = keras.Input((4,))
  x = keras.layers.Dense(8, activation="relu", name="dense")(inputs)
  features = keras.Input((8,))
  head = keras.Model(features, keras.layers.Dense(2, name="logits")(features), name="head")
  return keras.Model(inputs, head(x))


def test_what_stands_on_the_head_or_in_its_place_stays_exact():
  rows, present = keras.Input((4,)), keras.Input((2,))
  tagged = keras.Model([rows, present], graphs.PerToken(name="per_token")(rows, present))
  unit = keras.Model(rows, keras.layers.UnitNormalization(name="l2_normalized")(rows))
  tail = keras.Model(rows, keras.layers.UnitNormalization(name="l2_normalized_features")(rows), name="tail")
  below = keras.Input((4,))
  cut = keras.Model(below, tail(below))
  x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
  exact = tagged([x, np.ones((2, 2))]), unit(x), cut(x)
  for network in (tagged, unit, cut):
    with precision.computing(network, "mixed_bfloat16"):
      found = tagged([x, np.ones((2, 2))]), unit(x), cut(x)
    for one, other in zip(exact, found):
      np.testing.assert_array_equal(one, other)


def test_a_table_is_looked_up_as_it_is():
  ids = keras.Input((None,), dtype="int32")
  rows = keras.Model(ids, keras.layers.Dense(3)(keras.layers.Embedding(9, 4, name="table")(ids)))
  with precision.computing(rows, "mixed_bfloat16"):
    assert rows.get_layer("table")(np.ones((1, 2))).dtype == tf.float32
    assert rows(np.ones((1, 2))).dtype == tf.bfloat16


def _backbone(kind):
  kind_of_backbone = SavedModelBackbone if kind == "saved_model" else Backbone
  return kind_of_backbone(BackboneSpec("tiny", kind, "x"), None, None, {}, 1)


def test_layers_but_the_head_compute_in_it_within_the_block():
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
  ("flags", "kind", "gpu", "devices", "expected"),
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
def test_candidates(flags, kind, gpu, devices, expected):
  ways = precision.candidates(Config(**flags), _backbone(kind), gpu, devices)
  assert [str(way) for way in ways] == expected


def test_the_fastest_that_keeps_the_loss_is_taken_if_it_gains_enough():
  plain, half, quick = Way(), Way("mixed_bfloat16"), Way("mixed_float16", True)
  assert precision.fastest({plain: (1.0, 2.0), half: (0.7, 2.01), quick: (0.5, 2.02)}, plain) == quick
  assert precision.fastest({plain: (1.0, 2.0), half: (0.7, 2.01), quick: (0.5, 2.5)}, plain) == half
  assert precision.fastest({plain: (1.0, 2.0), half: (0.9, 2.0), quick: (0.5, float("nan"))}, plain) == plain


@pytest.mark.slow
def test_a_measurement_leaves_no_trace(monkeypatch):
  network = _network()
  x, y = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32), np.arange(32) % 2
  dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).repeat()
  before, compiled = [np.array(v) for v in network.variables], []

  def compile_way(way):
    if way.jit:
      raise NotImplementedError("no XLA here")
    compiled.append(way)
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])

  ways = [Way(), Way("mixed_bfloat16"), Way(jit=True)]
  assert precision.choose(ways, network, compile_way, dataset, precision.LEAST_STEPS - 1) == Way()
  assert compiled == []
  monkeypatch.setattr(precision, "LEAST_GAIN", 0.0)
  assert precision.choose(ways, network, compile_way, dataset, precision.LEAST_STEPS) in ways[:2]
  assert compiled == ways[:2]
  seconds = {False: (1.0, 2.0, 9.0), True: (0.5, 2.0, 60.5)}
  monkeypatch.setattr(precision, "measure", lambda way, *_: seconds[way.jit])
  # 60 s to compile, once or for each of eight lengths, in 600 steps.
  assert precision.choose([Way(), Way(jit=True)], network, compile_way, dataset, 600).jit
  assert not precision.choose([Way(), Way(jit=True)], network, compile_way, dataset, 600, shapes=8).jit
  for old, variable in zip(before, network.variables):
    np.testing.assert_array_equal(old, np.array(variable))


def test_what_dropout_does_to_a_small_loss_does_not_decide():
  keras.utils.set_random_seed(3)
  inputs = keras.Input((4,))
  hidden = keras.layers.Dense(64, activation="relu", name="dense")(inputs)
  features = keras.Input((64,))
  head = keras.Model(features, keras.layers.Dense(2, name="logits")(features), name="head")
  network = keras.Model(inputs, head(keras.layers.Dropout(0.5, seed=0)(hidden)))

  def compile_way(way):
    network.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

  compile_way(Way())
  x, y = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32), np.arange(8) % 2
  batches, ways = [(x, y)] * precision.STEPS, [Way(), Way("mixed_bfloat16")]
  with precision.computing(network, "mixed_bfloat16"):
    answers = network(x, training=False)
  expected = float(network.compute_loss(x, y, answers, training=False))
  assert precision.answered(ways[1], network, batches) == pytest.approx(expected)
  plain, half = (precision.answered(way, network, batches) for way in ways)
  assert plain != half and abs(plain - half) < precision.LOSS_TOLERANCE * plain
  trained = [precision.measure(way, network, compile_way, batches)[1] for way in ways]
  assert abs(trained[0] - trained[1]) > precision.LOSS_TOLERANCE * trained[0]


def test_each_device_is_measured_on_its_share_of_a_batch():
  sizes = []
  network = types.SimpleNamespace(
    variables=[],
    layers=[],
    distribute_strategy=types.SimpleNamespace(num_replicas_in_sync=2),
    reset_metrics=lambda: None,
    train_on_batch=lambda x, y, return_dict: sizes.append((len(x["ids"]), len(y))) or {"loss": 1.5},
  )
  dataset = tf.data.Dataset.from_tensors(({"ids": np.zeros((8, 3))}, np.zeros(8))).repeat()
  assert precision.measure(Way(), network, lambda way: None, dataset)[1] == 1.5
  assert sizes == [(4, 4)] * (precision.STEPS * precision.ROUNDS)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  return tiny_presets.reviews_run(tmp_path_factory.mktemp("precision")) | {
    "epochs": 1,
    "head_epochs": 3,
    "max_examples": 40,
    "learning_rate": 3e-3,
  }


@pytest.mark.slow
def test_a_run_trains_in_it_and_answers_in_float32(config, tmp_path):
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
def test_what_cannot_be_had_is_refused(config, tmp_path):
  module = tiny_modules.strings(tmp_path / "strings")
  with pytest.raises(UserError, match="keeps its own precision"):
    train.train_and_evaluate(Config(**config | {"backbone": module}, precision="mixed_bfloat16"), tmp_path / "run")
  with pytest.raises(UserError, match="--jit=on: XLA does not compile a SavedModel"):
    precision.check(Config(jit="on"), _backbone("saved_model"), 1)
  with pytest.raises(UserError, match="--strategy=single"):
    precision.check(Config(jit="on"), _backbone("kerashub"), 2)
