"""Compiled steps: kept for equal steps, with a new optimizer; made anew for others."""

import types

import keras
import numpy as np
import pytest

from tl_app import tasks
from tl_app.backbones.weights import values
from tl_app.compute import precision
from tl_app.compute.precision import PLAIN, StepPolicy
from tl_app.config import Config
from tl_app.model import heads
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.training import compiling
from tl_app.training.compiling import PhaseSteps

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
