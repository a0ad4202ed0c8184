"""--max_minutes: fine-tuning is shortened to what the measured time of a step leaves time for."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence

from tl_app.compute.devices import Devices
from tl_app.data.training_data import TrainingData
from tl_app.recipes.phase import HEAD, Phase
from tl_app.training import time_budget

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TimeLimit:
  """The end of a run.

  Attributes:
    deadline: as `time.monotonic`.
    max_minutes: value of --max_minutes, for messages.
    export: whether the run ends with an export.
    devices: the `Devices`; of several workers the chief reads the clock.
  """

  deadline: float
  max_minutes: float
  export: bool
  devices: Devices | None = None

  def seconds_left(self) -> float:
    """Returns the seconds until the deadline."""
    return self.devices.decided(self._own_seconds) if self.devices else self._own_seconds()

  def alone(self) -> "TimeLimit":
    """Returns the same limit by the clock of this worker."""
    return dataclasses.replace(self, devices=None)

  def _own_seconds(self):
    return self.deadline - time.monotonic()

  def is_over(self) -> bool:
    """Returns whether training must stop: what follows it needs the rest."""
    return self.seconds_left() < time_budget.CLOSING_SECONDS[self.export]

  def seconds_for(self, phase: Phase, step_seconds: float, data: TrainingData, remaining_phases: int) -> float:
    """Returns the seconds that a phase may take.

    Args:
      phase: the `Phase`.
      step_seconds: measured seconds of a training step.
      data: the `TrainingData`.
      remaining_phases: number of phases that share the time left, this one included.
    """
    train, validation, test = (_batches(len(rows), phase) for rows in (data.train, data.validation, data.test))
    # After a phase that does not train the head, a head is fitted to new features of the training split.
    closing = 2 * validation + test + (0 if phase.objective.trains_head else train)
    return time_budget.seconds_left(self.seconds_left(), step_seconds, closing, self.export, remaining_phases)

  def shorten(self, phase: Phase, step_seconds: float, data: TrainingData, remaining_phases: int) -> Phase | None:
    """Returns the phase with the epochs, or the part of one, that fit; None if nothing does.

    Args:
      phase, step_seconds, data, remaining_phases: as of `seconds_for`.
    """
    seconds = self.seconds_for(phase, step_seconds, data, remaining_phases)
    return time_budget.shorten(phase, step_seconds, seconds, _batches(len(data.validation), phase))


def fit_into(
  phase: Phase,
  step_seconds: float,
  trained_stages: Sequence[str],
  shorten: Callable[[Phase, float], Phase | None],
  measure: Callable[[Phase], float],
) -> Phase | None:
  """Returns what of a phase fits into the time: all of it, fewer epochs, fewer stages, or a part of an epoch.

  Fewer stages are tried if not even one epoch of the whole phase fits: the upper half of the stages, the upper quarter,
  down to the top stage. A phase with fewer stages keeps its epochs: the caller measures its steps and shortens it.

  Args:
    phase: the `Phase`.
    step_seconds: seconds of a training step of `phase`.
    trained_stages: names of the backbone's stages that it trains, from the input upwards.
    shorten: (phase, seconds of its step) -> the phase with the epochs, or the part of one, that fit, or None.
    measure: phase -> seconds of a training step that runs the whole backbone.

  Returns:
    A `Phase`, or None if nothing fits.
  """
  shortened = shorten(phase, step_seconds)
  if _has_whole_epoch(phase, shortened):
    return shortened
  narrower = list(time_budget.fewer_stages(phase, trained_stages))
  if not narrower:
    return shortened
  if not _has_whole_epoch(phase, shorten(phase, time_budget.FORWARD * step_seconds)):
    # No number of stages is so fast.
    narrower = narrower[-1:]
  for candidate in narrower:
    part = shorten(candidate, measure(candidate))
    if _has_whole_epoch(phase, part):
      break
  if part is None:
    return shortened
  return candidate if part.schedule.epochs > 1 else part


def report(limit: TimeLimit, phase: Phase, done: Phase | None, seconds: float, step_seconds: float) -> None:
  """Logs what --max_minutes left of a phase."""
  if done is None:
    result = "no training step fits"
  elif done.trains.train_stages != phase.trains.train_stages:
    names = ", ".join(name for name in done.trains.train_stages if name != HEAD)
    result = f"no epoch of all its stages fits; {names} train, the stages below stay frozen"
  else:
    left, planned = (f"{p.schedule.epochs} x {p.schedule.steps_per_epoch}" for p in (done, phase))
    result = f"{left} steps in place of {planned}"
  log.warning(
    "--max_minutes=%g: phase %s has %.0f s at %.2f s a step: %s",
    *(limit.max_minutes, phase.name, max(seconds, 0), step_seconds, result),
  )


def _batches(examples, phase):
  return math.ceil(examples / phase.inputs.batch_size)


def _has_whole_epoch(phase, shortened):
  return shortened is not None and shortened.schedule.steps_per_epoch == phase.schedule.steps_per_epoch
