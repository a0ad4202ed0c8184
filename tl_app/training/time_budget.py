"""Arithmetic of --max_minutes: the epochs and stages that fit into a number of seconds."""

import math
from collections.abc import Iterator, Sequence

from tl_app.recipes.phase import Phase

# Time of a forward pass divided by that of a training step: the backward pass takes about twice as long as the forward.
FORWARD = 1 / 3
# {whether the run exports: seconds for the report, the export and its check after the last phase, without inference}.
CLOSING_SECONDS = {False: 5.0, True: 45.0}
# Smallest number of steps that is worth training.
MIN_STEPS = 20


def shorten(phase: Phase, step_seconds: float, seconds: float, validation_batches: int) -> Phase | None:
  """Returns the phase with the epochs, or the part of one epoch, that fit into `seconds`; None if nothing fits.

  Args:
    phase: the `Phase`.
    step_seconds: seconds of a training step.
    seconds: time for the phase, in seconds.
    validation_batches: number of validation batches after each epoch.
  """
  schedule = phase.schedule
  epoch_seconds = step_seconds * (schedule.steps_per_epoch + FORWARD * validation_batches)
  epochs = min(schedule.epochs, math.floor(seconds / epoch_seconds))
  steps = schedule.steps_per_epoch
  if epochs < 1:
    epochs, steps = 1, math.floor(seconds / step_seconds - FORWARD * validation_batches)
    if steps < min(MIN_STEPS, schedule.steps_per_epoch):
      return None
  if epochs * steps < phase.optimizer.accumulate_steps:
    return None
  if (epochs, steps) == (schedule.epochs, schedule.steps_per_epoch):
    return phase
  warmup_steps = math.ceil(schedule.warmup_steps * epochs * steps / schedule.steps)
  return phase.replace(epochs=epochs, steps_per_epoch=steps, warmup_steps=warmup_steps)


def fewer_stages(phase: Phase, trained_stages: Sequence[str]) -> Iterator[Phase]:
  """Yields the phase with the upper half of its trained stages, then the upper quarter, and so on to the top stage.

  Args:
    phase: the `Phase`.
    trained_stages: names of the backbone's stages that it trains, from the input upwards.
  """
  count, stages = len(trained_stages), phase.trains.train_stages
  while count > 1:
    count //= 2
    yield phase.replace(train_stages=stages[stages.index(trained_stages[-count]) :])


def seconds_left(seconds: float, step_seconds: float, closing_batches: int, export: bool, phases: int) -> float:
  """Returns the seconds that the next phase may take; the remaining phases get equal shares.

  Args:
    seconds: time until the end of the run.
    step_seconds: seconds of a training step.
    closing_batches: number of batches of the validation and test splits that are evaluated after the last phase.
    export: whether the run exports.
    phases: number of remaining phases, including this one.
  """
  closing = CLOSING_SECONDS[export] + FORWARD * step_seconds * closing_batches
  return (seconds - closing) / phases
