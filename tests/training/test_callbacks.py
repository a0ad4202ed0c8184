"""Callbacks: the best epoch is restored, patience and NaN stop training, the log has one object per epoch."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_app.compute.devices import Devices
from tl_app.config import Config
from tl_app.errors import RunFailed
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.tasks import SINGLE_LABEL
from tl_app.terminal import progress
from tl_app.training import callbacks
from tl_app.workdir import Record, Workdir

PHASE = recipes.plan(Config(head_epochs=6, batch_size=4), Facts(8, 2, 1e-4, {}))[0]


def _model():
  keras.utils.set_random_seed(0)
  model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
  return model


def _fit(model, used, epochs=6, batch_size=4):
  rng = np.random.default_rng(0)
  model.fit(rng.normal(size=(8, 3)), rng.integers(0, 2, 8), batch_size, epochs, verbose=0, callbacks=used)


class GivenMetrics(keras.callbacks.Callback):
  """Puts given validation metrics into the logs, and records the weights of each epoch."""

  def __init__(self, losses, accuracies=None):
    super().__init__()
    self._metrics = list(zip(losses, accuracies or [0.5] * len(losses)))
    self.weights = []

  def on_epoch_end(self, epoch, logs=None):
    logs["val_loss"], logs["val_accuracy"] = self._metrics[epoch]
    self.weights.append(self.model.get_weights())


@pytest.mark.parametrize(
  ("monitor", "losses", "accuracies", "best"),
  [
    ("loss", [5, 3, 4, 2, 6, 7], [0, 1, 1, 0, 1, 0], 3),
    ("accuracy", [5, 3, 4, 2, 6, 1], [0, 1, 1, 0, 1, 0], 1),
  ],
)
def test_the_best_epoch_is_restored(monitor, losses, accuracies, best):
  model, given = _model(), GivenMetrics(losses, accuracies)
  keep = callbacks.KeepBest(model.variables, monitor, patience=0)
  _fit(model, [given, keep])
  assert len(given.weights) == 6
  assert keep.epoch == best
  for now, then, last in zip(model.get_weights(), given.weights[best], given.weights[-1]):
    np.testing.assert_array_equal(now, then)
    assert (now != last).any()


def test_training_stops_after_patience_epochs():
  model, given = _model(), GivenMetrics([5, 4, 4.5, 4.5, 1, 1])
  keep = callbacks.KeepBest(model.variables, "loss", patience=2)
  _fit(model, [given, keep])
  assert len(given.weights) == 4
  stopped = "stopped early after 4 of at most 6 epochs: 2 epochs without a lower validation loss; the best is epoch 2"
  assert keep.summary(6) == stopped


def test_a_phase_says_how_long_it_takes_and_how_its_epochs_end(monkeypatch):
  now, lines = iter(range(1000)), []
  monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
  phase = recipes.plan(Config(recipe="lp_ft", epochs=3, batch_size=4), Facts(8, 2, 1e-4, {"encoder": 1}))[1]
  bar = progress.Bar("fine_tune", phase.schedule.steps)
  show = callbacks.ShowProgress(phase, bar, 1.0, lambda line, *values: lines.append(line % values))
  _fit(_model(), [GivenMetrics([3, 2, 1]), show], epochs=3)
  assert bar.done == bar.total == 6
  (estimate,) = [line for line in lines if "first steps" in line]
  assert re.fullmatch("phase fine_tune: judging by the first steps, the others take about [0-9]+ s or less", estimate)
  assert [line[:19] for line in lines if "val_loss" in line] == [f"fine_tune epoch {n}/3" for n in (1, 2, 3)]
  assert [" or less left" in line for line in lines if "val_loss" in line] == [True, True, False]


def test_a_phase_without_other_steps_says_nothing_about_them():
  """Of four steps of a minute each the log printed that all take 1 s: the time that was left after them."""
  lines = []
  phase = recipes.plan(Config(recipe="lp_ft", epochs=2, batch_size=4), Facts(8, 2, 1e-4, {"encoder": 1}))[1]
  show = callbacks.ShowProgress(
    phase, progress.Bar("fine_tune", 4), 1.0, lambda line, *values: lines.append(line % values)
  )
  _fit(_model(), [GivenMetrics([3, 2]), show], epochs=2)
  assert len(lines) == 2 and not [line for line in lines if "first steps" in line]


def test_an_epoch_of_the_first_step_alone_says_nothing_about_the_rest():
  lines = []
  phase = recipes.plan(Config(recipe="lp_ft", epochs=3, batch_size=8), Facts(8, 2, 1e-4, {"encoder": 1}))[1]
  show = callbacks.ShowProgress(
    phase, progress.Bar("fine_tune", 3), 1.0, lambda line, *values: lines.append(line % values)
  )
  _fit(_model(), [GivenMetrics([3, 2, 1]), show], epochs=3, batch_size=8)
  assert [" or less left" in line for line in lines if "val_loss" in line] == [False, True, False]


def test_nan_stops_the_run_and_names_the_step():
  x = np.zeros((8, 3))
  x[7] = np.nan
  with pytest.raises(RunFailed, match=r"not finite at step 2 of phase probe .epoch 1.: lower --learning_rate"):
    _model().fit(x, np.zeros(8), batch_size=4, shuffle=False, verbose=0, callbacks=[callbacks.StopAtNaN(PHASE)])


def test_the_log_has_one_object_per_epoch(tmp_path):
  record = Record(Workdir(tmp_path))
  _fit(_model(), [GivenMetrics([3, 2, 1]), callbacks.EpochLog(record, PHASE)], epochs=3)
  lines = [json.loads(line) for line in record.paths.log.read_text().splitlines()]
  assert [line["epoch"] for line in lines] == [1, 2, 3]
  assert all({"phase", "loss", "val_loss", "val_accuracy", "learning_rate", "seconds"} <= set(line) for line in lines)


def test_validation_counts_every_example():
  logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], np.float32)
  logs = {}
  task, one = SINGLE_LABEL.with_codec(names=("a", "b")), Devices(tf.distribute.get_strategy())
  callbacks.Validate(lambda: logits, np.array([0, 1, 1]), task, one).on_epoch_end(0, logs)
  expected = -np.mean([2 - np.log(np.exp(2) + 1), 1 - np.log(1 + np.e), 0 - np.log(np.exp(3) + 1)])
  assert logs["val_accuracy"] == pytest.approx(2 / 3)
  assert logs["val_loss"] == pytest.approx(expected)


def test_an_epoch_in_which_nothing_has_changed_is_never_the_best():
  model, moved = _model(), iter([False, True])
  given = GivenMetrics([1, 5, 3, 4, 6, 7])
  keep = callbacks.KeepBest(model.variables, "loss", 0, moved=lambda: next(moved))
  _fit(model, [given, keep])
  assert keep.epoch == 2
  for weight, kept in zip(model.get_weights(), given.weights[2]):
    np.testing.assert_array_equal(weight, kept)
