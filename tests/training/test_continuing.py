"""A fit continues at any batch as if it had not been interrupted."""

import random
import signal
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_app import workdir
from tl_app.config import Config
from tl_app.errors import interruption
from tl_app.training import continuing, phases
from tl_app.training.callbacks import EpochSummaries, KeepBest
from tl_app.training.continuing import Callbacks, SavedFit, random_state, set_random_state
from tl_app.workdir import Record
from tl_app.workdir.state import RunState

STEPS, EPOCHS = 4, 3
CONFIG = Config(workdir="w", backbone="lstm.scratch", dataset="digits")
SCHEDULE = types.SimpleNamespace(epochs=EPOCHS, steps_per_epoch=STEPS)
PHASE = types.SimpleNamespace(name="full", schedule=SCHEDULE, trains_backbone=True)
BACKBONE = types.SimpleNamespace(keeps_seeds=False)
X = np.random.default_rng(0).normal(size=(STEPS * EPOCHS, 8, 3)).astype(np.float32)
Y = (X.sum(axis=2) > 0).astype(np.int32)


def _batches(skipped=0):
  return tf.data.Dataset.from_tensor_slices((X, Y)).repeat().skip(skipped)


class _Watch(keras.callbacks.Callback):
  """Notes what callbacks are told, gives each epoch a validation loss, and interrupts after a batch."""

  def __init__(self, last=None):
    super().__init__()
    self.seen, self._last, self._epoch = [], last, 0

  def on_epoch_begin(self, epoch, logs=None):
    self._epoch = epoch

  def on_train_batch_end(self, batch, logs=None):
    self.seen.append((self._epoch, batch))
    if self.seen[-1] == self._last:
      interruption.request(signal.SIGTERM)

  def on_epoch_end(self, epoch, logs=None):
    logs["val_loss"] = abs(epoch - 1)
    self.seen.append((epoch, {name: float(value) for name, value in logs.items()}))


@pytest.fixture(autouse=True)
def no_alarm(monkeypatch):
  monkeypatch.setattr(interruption, "_state", interruption._State())
  monkeypatch.setattr(signal, "alarm", lambda seconds: 0)


def _fit(root, state, last=None, steps_per_call=1):
  """Fits a small network; returns (its weights, the best ones, what callbacks were told)."""
  layers = [keras.Input((3,)), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(2, kernel_initializer="ones")]
  network = keras.Sequential(layers)
  optimizer = keras.optimizers.Adam(0.1, gradient_accumulation_steps=2, use_ema=True)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  network.compile(optimizer, loss, metrics=["accuracy"], steps_per_execution=steps_per_call)
  state.know([])
  best, watch = KeepBest(network.weights, "loss", 5), _Watch(last)
  fit = SavedFit(Record(workdir.Workdir(root), state), PHASE, network, best)
  fit.restore(_batches, BACKBONE)
  with interruption.deferred():
    network.fit(
      _batches(fit.skipped),
      initial_epoch=fit.position.epoch,
      epochs=EPOCHS,
      steps_per_epoch=STEPS,
      callbacks=Callbacks([watch, best, EpochSummaries(root / "tensorboard/full")], fit, 0.0),
      verbose=0,
      shuffle=False,
    )
  return [*network.get_weights(), *best.averaged_values], best.epoch, watch.seen


@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_an_interrupted_fit_continues_to_the_same_bits(tmp_path, steps_per_call, caplog):
  run = workdir.Workdir(tmp_path)
  weights, best, seen = _fit(tmp_path / "whole", RunState(), steps_per_call=steps_per_call)
  # The calls of a whole epoch with three steps each end after batches 2 and 5.
  stops = [(0, 0), (1, 2), (2, 3)] if steps_per_call == 1 else [(0, 2), (1, 5)]
  for stop in stops:
    with pytest.raises(KeyboardInterrupt):
      _fit(tmp_path, RunState.load(run, CONFIG), stop, steps_per_call)
    interruption._state.number = 0
  found, found_best, rest = _fit(tmp_path, RunState.load(run, CONFIG), steps_per_call=steps_per_call)
  assert found_best == best == 1
  assert caplog.text.count("draws other random numbers after an interruption") == len(stops)
  for one, other in zip(weights, found, strict=True):
    np.testing.assert_array_equal(one, other)
  # The rest has the numbers of the batches and the metrics of whole epochs.
  assert rest and rest == seen[len(seen) - len(rest) :]


def test_the_state_of_random_numbers_comes_back():
  before = random_state()
  numbers = [np.random.normal(), random.random()]
  set_random_state(before)
  assert numbers == [np.random.normal(), random.random()]


@pytest.mark.parametrize(
  ("done", "begun", "keeps_seeds", "warned"),
  [
    (["probe", "fine_tune"], False, False, True),
    (["probe", "fine_tune"], True, False, False),
    (["probe", "fine_tune"], False, True, False),
    (["probe"], False, False, False),
    (["probe", "fine_tune", "fine_tune_2"], False, False, False),
  ],
)
def test_a_run_that_continues_between_two_phases_warns_of_dropout(done, begun, keeps_seeds, warned, caplog):
  all_phases = [
    types.SimpleNamespace(name=name, trains_backbone=name != "probe") for name in ("probe", "fine_tune", "fine_tune_2")
  ]
  state = types.SimpleNamespace(has=lambda part: part == continuing.PART and begun)
  backbone = types.SimpleNamespace(keeps_seeds=keeps_seeds)
  phases._warn_about_dropout(all_phases[: len(done)], all_phases[len(done) :], state, backbone)
  assert ("phase fine_tune_2: the dropout" in caplog.text) == warned
