"""Compiled steps: kept for equal steps, with a new optimizer; made anew for others."""

import gc
import types
import weakref

import keras
import numpy as np
import pytest
import tiny_data
import tiny_modules
import tiny_presets

from tl_app import tasks
from tl_app.backbones.weights import values
from tl_app.commands import train
from tl_app.config import Config
from tl_app.model import heads
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.training import compiling, optimizers, phases, precision
from tl_app.training.compiling import PhaseSteps
from tl_app.training.precision import PLAIN, StepPolicy

LABELS = ["ant", "bee", "cat"] * 8
TASK = tasks.TASKS["single_label"].fit(LABELS)
TARGETS = TASK.codec.targets(LABELS)
BATCHES = [(np.eye(3, dtype=np.float32)[TARGETS[i : i + 4]], TARGETS[i : i + 4]) for i in range(0, 24, 4)]


def steps(**flags):
  """Returns the `PhaseSteps` of fine-tuning a network of two layers."""
  keras.utils.set_random_seed(0)
  inputs = keras.Input((3,))
  hidden, head = keras.layers.Dense(4, use_bias=False, name="layer"), heads.build(4, 3)
  network = keras.Model(inputs, head(hidden(inputs)))
  facts = Facts(24, 3, 1e-2, {"layer": ("layer/kernel",)})
  phase = recipes.plan(Config(**{"recipe": "lp_ft", "epochs": 2, "batch_size": 4} | flags), facts)[-1]
  stages = {"layer": list(hidden.variables), "head": list(head.weights)}
  return PhaseSteps(network, phase, types.SimpleNamespace(task=TASK, stages=stages), TARGETS)


def trained(made, start, policy=PLAIN):
  """Returns the variables after some steps from `start`."""
  for variable, value in zip(made.network.variables, start):
    variable.assign(value)
  with precision.computing(made.network, policy.precision):
    made.compile(policy)
    for batch in BATCHES:
      made.network.train_on_batch(*batch)
  return values(made.network.variables)


@pytest.mark.parametrize(
  "flags",
  [
    {},
    {"lora_rank": 2, "recipe": "lora"},
    {"ema": 0.5},
    {"accumulate_steps": 2},
    {"optimizer": "sgd", "momentum": 0.9},
  ],
)
def test_equal_steps_are_compiled_once_and_train_as_new_ones(flags):
  made = steps(**flags)
  start = values(made.network.variables)
  first, function = trained(made, start), made.network.train_function
  # As the weights of another fold.
  other = [value + 0.1 if value.dtype == np.float32 else value for value in start]
  again = PhaseSteps(made.network, made.phase.replace(name="fold_2", seed_offset=3), made.model, TARGETS)
  kept = trained(again, other)
  assert made.network.train_function is function
  assert not all(map(np.array_equal, first, kept))
  compiling._COMPILED.clear()
  fresh = trained(again, other)
  assert made.network.train_function is not function
  for one, two in zip(kept, fresh):
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_the_scale_of_the_loss_is_that_of_the_start():
  made, policy = steps(), StepPolicy("mixed_float16")
  start = values(made.network.variables)
  first, function = trained(made, start, policy), made.network.train_function
  made.network.optimizer.dynamic_scale.assign(2.0)
  again = trained(made, start, policy)
  assert made.network.train_function is function and float(made.network.optimizer.dynamic_scale) > 2
  for one, two in zip(first, again):
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
  "change",
  [
    lambda made: (made.phase.replace(steps_per_epoch=7), PLAIN, TARGETS),
    lambda made: (made.phase.replace(label_smoothing=0.1), PLAIN, TARGETS),
    lambda made: (made.phase, StepPolicy(jit=True), TARGETS),
    lambda made: (made.phase.replace(imbalance="class_weights"), PLAIN, TARGETS),
  ],
)
def test_other_steps_are_compiled_anew(change):
  made = steps()
  made.compile()
  optimizer = made.network.optimizer
  phase, policy, targets = change(made)
  PhaseSteps(made.network, phase, made.model, targets).compile(policy)
  assert made.network.optimizer is not optimizer


def test_weights_of_classes_are_those_of_the_examples():
  made = steps(imbalance="class_weights")
  made.compile()
  optimizer = made.network.optimizer
  made.compile()
  assert made.network.optimizer is optimizer
  PhaseSteps(made.network, made.phase, made.model, TARGETS[:-1]).compile()
  assert made.network.optimizer is not optimizer


def test_variables_that_no_longer_train_are_compiled_anew():
  made = steps()
  made.compile()
  optimizer = made.network.optimizer
  made.network.get_layer("layer").trainable = False
  made.compile()
  assert made.network.optimizer is not optimizer


def test_a_model_that_is_not_trained_any_more_holds_no_optimizer():
  made = steps()
  trained(made, values(made.network.variables))
  optimizer, network = weakref.ref(made.network.optimizer), made.network
  model = types.SimpleNamespace(network=network, head=network.layers[-1], training_networks={"all": network})
  compiling.release(model)
  gc.collect()
  assert optimizer() is None and not model.training_networks
  # Another phase may follow.
  trained(made, values(network.variables))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["module", "preset"])
def test_evaluation_and_export_hold_no_optimizer(tmp_path, monkeypatch, backbone):
  paths = {"module": tiny_modules.bert, "preset": tiny_presets.bert}
  paths[backbone](tmp_path / "bert")
  tiny_data.reviews(tmp_path / "reviews.csv")
  config = Config(
    backbone=str(tmp_path / "bert"),
    dataset=f"table:{tmp_path}/reviews.csv",
    recipe="lp_ft",
    epochs=1,
    feature_cache="off",
    export=False,
  )
  select, made, alive = phases.select, [], []
  make = optimizers.make
  monkeypatch.setattr(optimizers, "make", lambda *args, **kwargs: _noted(make(*args, **kwargs), made))

  def selected(*args):
    gc.collect()
    alive.extend(ref() is not None for ref in made)
    return select(*args)

  monkeypatch.setattr(phases, "select", selected)
  train.train_and_evaluate(config, tmp_path / "run")
  assert alive and not any(alive)


def _noted(optimizer, refs):
  refs.append(weakref.ref(optimizer))
  return optimizer
