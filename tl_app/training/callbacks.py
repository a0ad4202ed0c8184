"""Keras callbacks: validation on every example once, best weights, early stopping, the logs, and the stop at NaN."""

import logging
import math
import pathlib
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones.weights import values
from tl_app.compute.devices import Devices
from tl_app.errors import RunFailed, interruption
from tl_app.errors.counts import number_of
from tl_app.terminal import progress

log = logging.getLogger(__name__)

# Number of steps after which a phase says how long it takes; the first one compiles.
FIRST_STEPS = 4


class Validate(keras.callbacks.Callback):
  """Adds val_loss and the primary metric (val_accuracy, ..) of the whole validation split to the logs."""

  def __init__(
    self,
    logits: Callable[[], np.ndarray],
    targets: np.ndarray,
    task,
    devices: Devices,
    interrupted: Callable[[], object] = lambda: None,
  ):
    """Creates the callback.

    Args:
      logits: function that returns the logits of the validation split, float32 [n, outputs].
      targets: [n, ..], targets of the validation split.
      task: the `Task`.
      devices: the `Devices`.
      interrupted: function that is called if an interruption ends `logits`.
    """
    super().__init__()
    self._logits = logits
    self._targets = targets
    self._task = task
    self._devices = devices
    self._interrupted = interrupted

  def on_epoch_end(self, epoch, logs=None):
    # It may take long, so an interruption does not wait for its end.
    with interruption.at_once(self._interrupted):
      logits = self._logits()
    metrics = self._devices.decided(lambda: self._task.metrics.monitor_metrics(logits, self._targets))
    logs.update({f"val_{name}": value for name, value in metrics.items()})


class KeepBest(keras.callbacks.Callback):
  """Restores the weights of the best epoch at the end of training, and stops training early.

  Attributes:
    epoch: index of the best epoch, from 0.
    stopped: whether it has stopped training early.
    averaged_values: averaged weights at the end of training, NumPy arrays; None if the optimizer averages none.
  """

  def __init__(
    self,
    variables: Sequence[keras.Variable],
    monitor: str,
    patience: int,
    moved: Callable[[], bool] = lambda: True,
  ):
    """Creates the callback.

    Args:
      variables: variables that the phase may change.
      monitor: metric that decides which epoch is best: "loss", or the name of a metric of which higher values are
        better, with the loss for ties. "" keeps the last epoch.
      patience: number of epochs without improvement after which training stops; 0 turns early stopping off.
      moved: function that returns whether every trained stage has changed. Until then an epoch cannot be the best one:
        with gradient accumulation the first epochs may not have made an update.
    """
    super().__init__()
    self._variables = variables
    self._monitor = monitor
    self._patience = patience
    self._moved = moved
    self._score = None
    self._values = None
    self._last = 0
    self.epoch = 0
    self.stopped = False
    self.averaged_values = None

  def on_epoch_end(self, epoch, logs=None):
    self._last = epoch
    if not self._monitor:
      return
    loss = logs["val_loss"]
    score = (-loss,) if self._monitor == "loss" else (logs[f"val_{self._monitor}"], -loss)
    if self._score is None and not self._moved():
      return
    if self._score is None or score > self._score:
      self._score, self.epoch = score, epoch
      self._values = values(self._variables)
    elif self._patience and epoch - self.epoch >= self._patience:
      self.stopped = self.model.stop_training = True

  def get_state(self) -> dict:
    """Returns what `set_state` takes, as JSON values and NumPy arrays."""
    return {
      "score": self._score,
      "values": self._values,
      "last": self._last,
      "epoch": self.epoch,
    }

  def set_state(self, saved: dict) -> None:
    """Continues with the best epoch of an interrupted fit."""
    self._score = saved["score"] and tuple(saved["score"])
    self._values, self._last, self.epoch = saved["values"], saved["last"], saved["epoch"]

  def summary(self, most: int) -> str:
    """Returns how training ended, in words; `most` is the largest number of epochs."""
    done = number_of(most, "epoch") if self._last + 1 == most else f"{self._last + 1} of at most {most} epochs"
    if self.stopped:
      monitored = "a lower validation loss" if self._monitor == "loss" else f"a higher validation {self._monitor}"
      done = f"stopped early after {done}: {number_of(self._patience, 'epoch')} without {monitored}"
    return f"{done}; the best is epoch {self.epoch + 1}" if self._values else done

  def on_train_end(self, logs=None):
    optimizer = self.model.optimizer
    if getattr(optimizer, "inner_optimizer", optimizer).use_ema:
      # `fit` has just written the averaged weights into the variables.
      self.averaged_values = values(self._variables)
    for variable, value in zip(self._variables, self._values or []):
      variable.assign(value)


class StopAtNaN(keras.callbacks.Callback):
  """Raises `RunFailed` with the number of the step if the loss is not finite."""

  def __init__(self, phase):
    super().__init__()
    self._phase = phase
    self._epoch = 0

  def on_epoch_begin(self, epoch, logs=None):
    self._epoch = epoch

  def on_train_batch_end(self, batch, logs=None):
    if not math.isfinite(float(logs["loss"])):
      step = self._epoch * self._phase.schedule.steps_per_epoch + batch + 1
      raise RunFailed(
        f"the loss is not finite at step {step} of phase {self._phase.name} (epoch {self._epoch + 1}): "
        "lower --learning_rate and --head_learning_rate, or check the data"
      )


class StopInTime(keras.callbacks.Callback):
  """Stops training at a point in time, even within an epoch; the part of the epoch is validated like a whole one."""

  def __init__(self, is_over: Callable[[], bool]):
    """Creates the callback.

    Args:
      is_over: function that returns whether the time is over.
    """
    super().__init__()
    self._is_over = is_over

  def on_train_batch_end(self, batch, logs=None):
    if self._is_over() and not self.model.stop_training:
      log.warning("--max_minutes: steps took longer than measured; the phase ends after batch %d", batch + 1)
      self.model.stop_training = True


class EpochSummaries(keras.callbacks.Callback):
  """Writes the metrics of each epoch for TensorBoard: training and validation as two runs of the same tags.

  They are on disk when the epoch has ended, so that an interrupted run continues after them; those of
  `keras.callbacks.TensorBoard` stay in memory for up to two minutes.
  """

  def __init__(self, directory: pathlib.Path):
    """Creates the callback.

    Args:
      directory: of the event files.
    """
    super().__init__()
    self._directory = directory
    self._writers = {}

  def on_epoch_end(self, epoch, logs=None):
    rate = {"learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))}
    validation = {name.removeprefix("val_"): value for name, value in logs.items() if name.startswith("val_")}
    training = {name: value for name, value in logs.items() if not name.startswith("val_")} | rate
    for part, metrics in (("train", training), ("validation", validation)):
      if metrics:
        if part not in self._writers:
          self._writers[part] = tf.summary.create_file_writer(str(self._directory / part))
        with self._writers[part].as_default():
          for name, value in metrics.items():
            tf.summary.scalar(f"epoch_{name}", value, step=epoch)
        self._writers[part].flush()

  def on_train_end(self, logs=None):
    for writer in self._writers.values():
      writer.close()


class EpochLog(keras.callbacks.Callback):
  """Appends one line per epoch to log.jsonl."""

  def __init__(self, record, phase):
    super().__init__()
    self._record = record
    self._phase = phase
    self._start = 0.0

  def on_epoch_begin(self, epoch, logs=None):
    self._start = time.monotonic()

  def on_epoch_end(self, epoch, logs=None):
    peak = max(self._phase.optimizer.learning_rates.values())
    values = {"phase": self._phase.name, "epoch": epoch + 1}
    values |= {name: float(value) for name, value in logs.items()}
    values["learning_rate"] = peak * float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
    values["seconds"] = round(time.monotonic() - self._start, 3)
    self._record.log_epoch(values)


class ShowProgress(keras.callbacks.Callback):
  """Moves the bar of a phase, and prints how long it takes and how its epochs end.

  A phase that trains the backbone has few and long epochs: each has a line. A probe has many short ones: it has a line
  after epochs 1, 2, 5, 10, 20, 50, .. and the last.
  """

  def __init__(self, phase, bar, validation_steps, print_line):
    """Creates the callback.

    Args:
      phase: the `Phase`.
      bar: the `progress.Bar` of the steps of all its epochs.
      validation_steps: the time of the validation after each epoch, in training steps.
      print_line: function that prints a line, given as the arguments of `logging.info`.
    """
    super().__init__()
    self._phase = phase
    self._bar = bar
    self._validation_share = validation_steps / phase.schedule.steps_per_epoch
    self._print_line = print_line
    self._epoch = 0
    self._start = self._compiled = 0.0
    self._has_estimate = not phase.trains_backbone

  def on_epoch_begin(self, epoch, logs=None):
    self._epoch = epoch
    self._start = self._compiled = time.monotonic()

  def on_train_batch_end(self, batch, logs=None):
    if not self._bar.done:
      # The first step compiles.
      self._compiled = time.monotonic()
    schedule = self._phase.schedule
    # Keras reports several steps at once where they are compiled together.
    steps = self._epoch * schedule.steps_per_epoch + batch + 1
    detail = f"epoch {self._epoch + 1} of {schedule.epochs}, loss {float(logs['loss']):.4f}"
    self._bar.advance(steps - self._bar.done, detail)
    seconds = self._bar.seconds_left()
    if not self._has_estimate and seconds is not None and FIRST_STEPS <= steps < self._bar.total:
      self._has_estimate = True
      most = progress.about(seconds * (1 + self._validation_share))
      self._print_line("phase %s: judging by the first steps, the others take %s or less", self._phase.name, most)

  def on_epoch_end(self, epoch, logs=None):
    number, epochs = epoch + 1, self._phase.schedule.epochs
    digits = str(number)
    is_round = digits[0] in "125" and set(digits[1:]) <= {"0"}
    if self._phase.trains_backbone or number == epochs or is_round:
      metrics = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
      seconds = time.monotonic() - self._start
      # Early stopping may end the phase sooner. Of the first step alone nobody can tell how long others take.
      goes_on = self._phase.trains_backbone and not self.model.stop_training and self._bar.seconds_left() is not None
      left = (epochs - number) * (time.monotonic() - self._compiled) if goes_on else 0
      left = f", {progress.about(left)} or less left" if left else ""
      self._print_line("%s epoch %d/%d  %s  %.1f s%s", self._phase.name, number, epochs, metrics, seconds, left)
