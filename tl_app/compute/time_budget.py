"""--max_minutes: fine-tuning is cut to what the measured time of a step leaves room for."""

import dataclasses
import math

# A forward pass beside a training step: the backward pass takes about twice as long.
FORWARD = 1 / 3
# What comes after the last phase besides inference: report, export, and the process that proves it.
CLOSING_SECONDS = {False: 5.0, True: 45.0}
# Fewer steps change nothing worth having.
LEAST_STEPS = 20


def shorten(phase, step_seconds, seconds, validation_batches):
  """Returns the phase with as many epochs, or as large a part of one, as fit into `seconds`; None if nothing does.

  Args:
    phase: `Phase`.
    step_seconds: of a training step.
    seconds: for the phase.
    validation_batches: batches that each epoch ends with.
  """
  epoch = step_seconds * (phase.steps_per_epoch + FORWARD * validation_batches)
  epochs = min(phase.epochs, math.floor(seconds / epoch))
  steps = phase.steps_per_epoch
  if epochs < 1:
    epochs, steps = 1, math.floor(seconds / step_seconds - FORWARD * validation_batches)
    if steps < min(LEAST_STEPS, phase.steps_per_epoch):
      return None
  if epochs * steps < phase.accumulate_steps:
    return None
  if (epochs, steps) == (phase.epochs, phase.steps_per_epoch):
    return phase
  warmup_steps = math.ceil(phase.warmup_steps * epochs * steps / phase.steps)
  return dataclasses.replace(phase, epochs=epochs, steps_per_epoch=steps, warmup_steps=warmup_steps)


def fewer_stages(phase, trained):
  """Yields the phase with the upper half of the backbone's stages that it trains, the upper quarter, .. the top one.

  Args:
    phase: `Phase`.
    trained: names of those stages, from the input upwards.
  """
  count = len(trained)
  while count > 1:
    count //= 2
    lowest = phase.train_stages.index(trained[-count])
    yield dataclasses.replace(phase, train_stages=phase.train_stages[lowest:])


def seconds_left(deadline, now, step_seconds, closing_batches, export, phases):
  """Returns the seconds that one of `phases` phases still to come may take.

  Args:
    deadline, now: as `time.monotonic`.
    step_seconds: of a training step.
    closing_batches: batches of the validation and test splits that are answered after the last phase.
    export: whether the run exports.
    phases: number, this one included.
  """
  closing = CLOSING_SECONDS[export] + FORWARD * step_seconds * closing_batches
  return (deadline - now - closing) / phases
