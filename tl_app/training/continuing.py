"""A fit that can be interrupted: its saved state, and the callbacks that save it and continue from it."""

import logging
import random
import typing
from collections.abc import Callable, Iterable

import keras
import numpy as np

from tl_app.backbones.backbone import Backbone
from tl_app.backbones.weights import values
from tl_app.errors import interruption
from tl_app.recipes.phase import Phase
from tl_app.workdir import Record

log = logging.getLogger(__name__)

# Name of the part of the `RunState` about the phase that is being fitted.
PART = "fit"


class Position(typing.NamedTuple):
  """How far a fit is: epochs that have ended, and batches of the next one."""

  epoch: int = 0
  batch: int = 0


class KeepsState(typing.Protocol):
  """Something with values that a continued fit needs, such as a callback."""

  def get_state(self) -> dict:
    """Returns what `set_state` takes, as JSON values and NumPy arrays."""
    ...

  def set_state(self, saved: dict) -> None:
    """Continues an interrupted fit."""
    ...


def warn_about_dropout(phase: Phase, backbone: Backbone) -> None:
  """Warns that a phase that continues gets other random numbers for dropout than without the interruption."""
  if phase.trains_backbone and not backbone.keeps_seeds:
    log.warning(
      "phase %s: the dropout of this SavedModel draws other random numbers after an interruption, so the results "
      "differ from those of an uninterrupted run",
      phase.name,
    )


class SavedFit:
  """The fit of a phase, and what must be saved to continue it.

  Attributes:
    phase: the `Phase`.
    network: the compiled `keras.Model`.
    position: the `Position`.
  """

  def __init__(self, record: Record, phase: Phase, network: keras.Model, best: KeepsState):
    """Creates it for a fit that begins.

    Args:
      record: the `Record` of the run.
      phase: the `Phase`.
      network: the compiled `keras.Model`.
      best: the callback that keeps the best epoch.
    """
    self.phase = phase
    self.network = network
    self.position = Position()
    self._record, self._best = record, best
    self._metrics: list | None = None

  @property
  def skipped(self) -> int:
    """Number of batches that have been trained on before the fit continues."""
    # Keras runs its last call of an epoch in full, whatever the number of steps.
    per_call = self.network.steps_per_execution
    per_epoch = -(-self.phase.schedule.steps_per_epoch // per_call) * per_call
    return self.position.epoch * per_epoch + self.position.batch

  def restore(self, batches: Callable[[], Iterable], backbone: Backbone) -> None:
    """Gives network, optimizer and callbacks the saved values, if this phase was interrupted.

    Args:
      batches: function that returns the batches of the phase.
      backbone: that of the network; a line warns of random numbers that it could not save.
    """
    saved = self._record.state.take(PART)
    if not saved or saved["phase"] != self.phase.name:
      return
    optimizer = self.network.optimizer
    if not optimizer.built:
      optimizer.build(self.network.trainable_variables)
    assign(self.network.variables, saved["variables"])
    assign(optimizer.variables, saved["optimizer"])
    if len(self.network.metrics_variables) < len(saved["metrics"]):
      # Keras creates them in the first step, after the beginning of the epoch.
      inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(next(iter(batches())))
      self.network.compute_metrics(inputs, targets, self.network(inputs, training=False))
    self._metrics = saved["metrics"]
    self._best.set_state(saved["best"])
    set_random_state(saved["random"])
    self.position = Position(saved["epoch"], saved["batch"])
    log.info("phase %s: continues after batch %d of epoch %d", self.phase.name, saved["batch"], saved["epoch"] + 1)
    if self.skipped:
      warn_about_dropout(self.phase, backbone)

  def restore_metrics(self) -> None:
    """Gives the metrics of the training batches their saved values; Keras resets them at the beginning of an epoch."""
    if self._metrics is not None:
      assign(self.network.metrics_variables, self._metrics)
      self._metrics = None

  def save(self) -> None:
    """Saves the run as it is at `position`."""
    state, network = self._record.state, self.network
    if not state.directory:
      return
    with interruption.deferred():
      interruption.acted_on()
      epoch, batch = self.position
      tree = {
        "phase": self.phase.name,
        "epoch": epoch,
        "batch": batch,
        "variables": values(network.variables),
        "optimizer": values(network.optimizer.variables),
        "metrics": values(network.metrics_variables),
        "best": self._best.get_state(),
        "random": random_state(),
      }
      state.set_part(PART, tree)
      self._record.save_state()
      # It would hold the memory of the arrays.
      state.set_part(PART, None)

  def is_due(self, minutes: float) -> bool:
    """Returns whether the run should be saved now."""
    return self._record.state.is_due(minutes)


class Callbacks(keras.callbacks.CallbackList):
  """The callbacks of a fit, which continue in the middle of an epoch and save the state.

  `fit` counts the batches of the epoch in which it begins from 0. The callbacks are given their numbers in the epoch.
  """

  def __init__(self, callbacks: list, fit: SavedFit, minutes: float):
    """Creates the list.

    Args:
      callbacks: the Keras callbacks.
      fit: the `SavedFit`, restored.
      minutes: time between two saved states; 0 saves none.
    """
    self._fit, self._minutes = fit, minutes
    self._first_epoch, self._offset = fit.position
    self._steps = fit.phase.schedule.steps_per_epoch
    # Whether the batches of the first epoch are done, and its end is not.
    self._only_end = self._offset >= self._steps
    self._ends_epoch = False
    params = {"verbose": 0, "epochs": fit.phase.schedule.epochs, "steps": self._steps}
    super().__init__(callbacks, add_history=True, model=fit.network, **params)

  def on_train_begin(self, logs=None):
    super().on_train_begin(logs)
    if self._only_end:
      network = self.model
      train = network.train_function

      def no_step(iterator):
        network.train_function = train
        return network.get_metrics_result()

      network.train_function = no_step

  def on_epoch_begin(self, epoch, logs=None):
    if epoch != self._first_epoch:
      self._offset = 0
    super().on_epoch_begin(epoch, logs)
    self._fit.restore_metrics()

  def on_train_batch_begin(self, batch, logs=None):
    if not self._only_end:
      super().on_train_batch_begin(batch + self._offset, logs)

  def on_train_batch_end(self, batch, logs=None):
    if self._only_end:
      self._only_end, done = False, self._offset
    else:
      done = batch + self._offset + 1
      super().on_train_batch_end(done - 1, logs)
      self._fit.position = Position(self._fit.position.epoch, done)
    if self._offset and done >= self._steps and not self.model.stop_training:
      # `fit` would go on until it has counted all batches of an epoch.
      self.model.stop_training = self._ends_epoch = True
    if interruption.requested() or self._fit.is_due(self._minutes):
      self._fit.save()
    interruption.check()

  def on_epoch_end(self, epoch, logs=None):
    if self._ends_epoch:
      self.model.stop_training = self._ends_epoch = False
    super().on_epoch_end(epoch, logs)
    self._fit.position = Position(epoch + 1)


def save_part(record: Record, name: str, make: Callable[[], dict]) -> None:
  """Saves the run with a new value of a part of its state, and ends it if a signal has asked for that.

  Args:
    record: the `Record` of the run.
    name: of the part.
    make: function that returns its value, JSON values and NumPy arrays; called if the run saves its state.
  """
  if record.state.directory:
    with interruption.deferred():
      interruption.acted_on()
      record.state.set_part(name, make())
      record.save_state()
  interruption.check()


def assign(variables: typing.Sequence, saved: typing.Sequence[np.ndarray]) -> None:
  """Assigns saved values to variables.

  Args:
    variables: Keras variables.
    saved: NumPy arrays, one for each.
  """
  for variable, value in zip(variables, saved, strict=True):
    variable.assign(value)


def random_state() -> dict:
  """Returns the state of the random numbers of Python and NumPy, from which Keras draws the seeds of new layers."""
  version, numbers, gauss = random.getstate()
  return {"python": [version, list(numbers), gauss], "numpy": list(np.random.get_state())}


def set_random_state(saved: dict) -> None:
  """Sets the state that `random_state` has returned."""
  version, numbers, gauss = saved["python"]
  random.setstate((version, tuple(numbers), gauss))
  np.random.set_state(tuple(saved["numpy"]))
