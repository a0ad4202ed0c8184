"""What happens beside `fit`: validation on every example once, best weights, the log, and the stop at NaN."""

import json
import logging
import math
import sys
import time

import keras

from tl_app.errors import RunFailed
from tl_app.model.variables import values

log = logging.getLogger(__name__)


def verbosity():
  """Returns Keras' `verbose`: a moving bar for a person who watches, a line an epoch for a file."""
  return 1 if sys.stdout.isatty() or "ipykernel" in sys.modules else 2


class Validate(keras.callbacks.Callback):
  """Adds val_loss and the task's score (val_accuracy, ..) to the logs, from the whole validation split's logits."""

  def __init__(self, logits, targets, task):
    """Args:
    logits: function of no arguments -> float32 [n, outputs].
    targets: [n, ..], of the `Task`.
    task: the `Task`.
    """
    super().__init__()
    self._logits = logits
    self._targets = targets
    self._task = task

  def on_epoch_end(self, epoch, logs=None):
    figures = self._task.metrics.monitor_metrics(self._logits(), self._targets)
    logs.update({f"val_{name}": value for name, value in figures.items()})


class KeepBest(keras.callbacks.Callback):
  """Puts the best epoch's values back when the phase ends; stops it after `patience` epochs without a better one."""

  def __init__(self, variables, monitor, patience, moved=lambda: True):
    """Args:
    variables: `keras.Variable`s that the phase may change.
    monitor: "loss", or the name of a score, higher is better (ties: loss).
    patience: epochs; 0 is never.
    moved: function of no arguments, whether every stage that trains has changed. Until then an epoch is the start of
      the phase and no result of it: few batches that are accumulated may not have made an update yet.
    """
    super().__init__()
    self._variables = variables
    self._monitor = monitor
    self._patience = patience
    self._moved = moved
    self._score = None
    self._values = None
    self.epoch = 0
    self.averaged = None

  def on_epoch_end(self, epoch, logs=None):
    loss = logs["val_loss"]
    score = (-loss,) if self._monitor == "loss" else (logs[f"val_{self._monitor}"], -loss)
    if self._score is None and not self._moved():
      return
    if self._score is None or score > self._score:
      self._score, self.epoch = score, epoch
      self._values = values(self._variables)
    elif self._patience and epoch - self.epoch >= self._patience:
      self.model.stop_training = True

  def on_train_end(self, logs=None):
    optimizer = self.model.optimizer
    if getattr(optimizer, "inner_optimizer", optimizer).use_ema:
      # `fit` has just written the averages into the variables.
      self.averaged = values(self._variables)
    for variable, value in zip(self._variables, self._values or []):
      variable.assign(value)


class StopAtNaN(keras.callbacks.Callback):
  """Fails the run when the loss is no longer finite, naming the step."""

  def __init__(self, phase):
    super().__init__()
    self._phase = phase
    self._epoch = 0

  def on_epoch_begin(self, epoch, logs=None):
    self._epoch = epoch

  def on_train_batch_end(self, batch, logs=None):
    if not math.isfinite(float(logs["loss"])):
      step = self._epoch * self._phase.steps_per_epoch + batch + 1
      raise RunFailed(
        f"the loss is not finite at step {step} of phase {self._phase.name} (epoch {self._epoch + 1}): "
        "lower --learning_rate and --head_learning_rate, or check the data"
      )


class StopInTime(keras.callbacks.Callback):
  """Ends a phase at a moment, as `time.monotonic`, in the middle of an epoch, which is then validated like a whole."""

  def __init__(self, moment):
    super().__init__()
    self._moment = moment

  def on_train_batch_end(self, batch, logs=None):
    if time.monotonic() > self._moment and not self.model.stop_training:
      log.warning("--max_minutes: its steps took longer than measured; the phase ends after batch %d", batch + 1)
      self.model.stop_training = True


class JsonLog(keras.callbacks.Callback):
  """Appends one JSON object an epoch."""

  def __init__(self, path, phase):
    super().__init__()
    self._path = path
    self._phase = phase
    self._start = 0.0

  def on_epoch_begin(self, epoch, logs=None):
    self._start = time.monotonic()

  def on_epoch_end(self, epoch, logs=None):
    peak = max(self._phase.learning_rates.values())
    record = {"phase": self._phase.name, "epoch": epoch + 1}
    record |= {name: float(value) for name, value in logs.items()}
    record["learning_rate"] = peak * float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
    record["seconds"] = round(time.monotonic() - self._start, 3)
    with open(self._path, "a", encoding="utf-8") as file:
      file.write(json.dumps(record) + "\n")


class SparseProgress(keras.callbacks.Callback):
  """One line at epochs 1, 2, 5, 10, 20, 50, ..: a probe on stored features has many short epochs."""

  def __init__(self, phase, say):
    super().__init__()
    self._phase = phase
    self._say = say

  def on_epoch_end(self, epoch, logs=None):
    number = epoch + 1
    digits = int(str(number)[0])
    if number == self._phase.epochs or (digits in (1, 2, 5) and number == digits * 10 ** (len(str(number)) - 1)):
      figures = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
      self._say(f"{self._phase.name} epoch {number}/{self._phase.epochs}  {figures}")
