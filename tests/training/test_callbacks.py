"""Best weights come back, patience stops, NaN names its step, the log is one object an epoch."""

import json

import keras
import numpy as np
import pytest

from tl_app.config import Config, Facts
from tl_app.errors import RunFailed
from tl_app.recipes import recipes
from tl_app.tasks import SINGLE_LABEL
from tl_app.training import callbacks

PHASE = recipes.plan(Config(head_epochs=6, batch_size=4), Facts(8, 2, 1e-4, {}))[0]


def _model():
  keras.utils.set_random_seed(0)
  model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
  return model


def _fit(model, watching, epochs=6):
  rng = np.random.default_rng(0)
  model.fit(rng.normal(size=(8, 3)), rng.integers(0, 2, 8), batch_size=4, epochs=epochs, verbose=0, callbacks=watching)


class Losses(keras.callbacks.Callback):
  """Pretends these validation figures, and remembers the weights of each epoch."""

  def __init__(self, losses, accuracies=None):
    super().__init__()
    self._figures = list(zip(losses, accuracies or [0.5] * len(losses)))
    self.weights = []

  def on_epoch_end(self, epoch, logs=None):
    logs["val_loss"], logs["val_accuracy"] = self._figures[epoch]
    self.weights.append(self.model.get_weights())


@pytest.mark.parametrize(
  ("monitor", "losses", "accuracies", "best"),
  [
    ("loss", [5, 3, 4, 2, 6, 7], [0, 1, 1, 0, 1, 0], 3),
    ("accuracy", [5, 3, 4, 2, 6, 1], [0, 1, 1, 0, 1, 0], 1),
  ],
)
def test_the_best_epoch_comes_back(monitor, losses, accuracies, best):
  model, pretend = _model(), Losses(losses, accuracies)
  keep = callbacks.KeepBest(model.variables, monitor, patience=0)
  _fit(model, [pretend, keep])
  assert len(pretend.weights) == 6
  assert keep.epoch == best
  for now, then, last in zip(model.get_weights(), pretend.weights[best], pretend.weights[-1]):
    np.testing.assert_array_equal(now, then)
    assert (now != last).any()


def test_patience_stops():
  model, pretend = _model(), Losses([5, 4, 4.5, 4.5, 1, 1])
  _fit(model, [pretend, callbacks.KeepBest(model.variables, "loss", patience=2)])
  assert len(pretend.weights) == 4


def test_nan_stops_the_run_and_names_the_step():
  x = np.zeros((8, 3))
  x[7] = np.nan
  with pytest.raises(RunFailed, match=r"not finite at step 2 of phase probe .epoch 1.: lower --learning_rate"):
    _model().fit(x, np.zeros(8), batch_size=4, shuffle=False, verbose=0, callbacks=[callbacks.StopAtNaN(PHASE)])


def test_log_has_one_object_an_epoch(tmp_path):
  log = tmp_path / "log.jsonl"
  _fit(_model(), [Losses([3, 2, 1]), callbacks.JsonLog(log, PHASE)], epochs=3)
  records = [json.loads(line) for line in log.read_text().splitlines()]
  assert [record["epoch"] for record in records] == [1, 2, 3]
  assert all({"phase", "loss", "val_loss", "val_accuracy", "learning_rate", "seconds"} <= set(r) for r in records)


def test_validation_counts_every_example():
  logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], np.float32)
  logs = {}
  callbacks.Validate(lambda: logits, np.array([0, 1, 1]), SINGLE_LABEL.with_codec(names=("a", "b"))).on_epoch_end(
    0, logs
  )
  expected = -np.mean([2 - np.log(np.exp(2) + 1), 1 - np.log(1 + np.e), 0 - np.log(np.exp(3) + 1)])
  assert logs["val_accuracy"] == pytest.approx(2 / 3)
  assert logs["val_loss"] == pytest.approx(expected)


def test_an_epoch_in_which_nothing_has_moved_is_no_result():
  model, moved = _model(), iter([False, True])
  watch = Losses([1, 5, 3, 4, 6, 7])
  keep = callbacks.KeepBest(model.variables, "loss", 0, moved=lambda: next(moved))
  _fit(model, [watch, keep])
  assert keep.epoch == 2
  for weight, kept in zip(model.get_weights(), watch.weights[2]):
    np.testing.assert_array_equal(weight, kept)
