"""Runs the phases of a pretraining and keeps the best weights, which may be those of the start."""

import dataclasses
import logging
import time
import typing
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones.weights import values
from tl_app.compute.devices import Devices
from tl_app.config import Config
from tl_app.data.corpus import corpus as corpora
from tl_app.data.corpus.corpus import Corpus
from tl_app.errors import RunFailed, interruption
from tl_app.model import audit, stages
from tl_app.model.model import BackboneWithHead
from tl_app.preprocessing import text
from tl_app.recipes.phase import Phase
from tl_app.terminal import progress
from tl_app.training import callbacks, continuing, precision, time_budget
from tl_app.training.compiling import PretrainingSteps, with_phase_steps
from tl_app.training.continuing import Callbacks, KeepsState, SavedFit
from tl_app.training.precision import StepPolicy
from tl_app.training.pretraining.objective import PretrainingObjective
from tl_app.training.pretraining.state import Done, Measured
from tl_app.workdir import Record

log = logging.getLogger(__name__)

# Seed of the random choices in the held-out part: the same for all runs, so that their metrics can be compared.
HELD_OUT_SEED = 0
START = "start"


class Probe(KeepsState, typing.Protocol):
  """Measures the present features."""

  def __call__(self) -> float:
    """Returns the score of a linear probe, higher is better."""
    ...


@dataclasses.dataclass(frozen=True)
class Pretraining:
  """What the phases of a pretraining share.

  Attributes:
    objective: the `PretrainingObjective`.
    model: the `BackboneWithHead`.
    corpus: the `Corpus`.
    devices: the `Devices`.
    config: the `Config`.
    record: the `Record`.
    probe: the `Probe`; None without --probe_dataset.
    deadline: when training must end, as `time.monotonic`; None without --max_minutes.
  """

  objective: PretrainingObjective
  model: BackboneWithHead
  corpus: Corpus
  devices: Devices
  config: Config
  record: Record
  probe: Probe | None = None
  deadline: float | None = None

  def seconds_left(self) -> float:
    """Returns the seconds until the deadline, on the clock of the chief."""
    return self.devices.decided(lambda: self.deadline - time.monotonic())


@dataclasses.dataclass(frozen=True)
class Result:
  """What a pretraining did. The model has the weights of `best`.

  Attributes:
    start: before the backbone has trained; after the warm-up of the head.
    best: what was kept; `start` if nothing was better.
    done: the phases that were run.
    policies: {name of a phase: its `StepPolicy`}.
    examples_per_second: {name of a phase: training examples per second, without the evaluation}.
  """

  start: Measured
  best: Measured
  done: list[Phase]
  policies: dict[str, StepPolicy]
  examples_per_second: dict[str, float]


def run(planned: Sequence[Phase], pretraining: Pretraining) -> Result:
  """Runs the phases, and gives the model the best weights that were measured after the warm-up of the head.

  A run that was interrupted continues where it was saved.

  Args:
    planned: the phases: those that train the head alone come first.
    pretraining: the `Pretraining`.

  Raises:
    RunFailed: a loss is not finite, or the audit of a phase failed.
  """
  model, record = pretraining.model, pretraining.record
  changing = stages.changing(model, planned)
  done = Done.restored(model, record.state, pretraining.probe)
  for index, phase in enumerate(planned[done.phases :], start=done.phases):
    with record.clock("train"), pretraining.devices.scope():
      fit = _PhaseFit(phase, pretraining, changing, done)
      if phase.trains_backbone and done.start is None:
        done.start = done.best = fit.measured(START)
        log.info("before pretraining: %s", described(done.start.metrics))
      found = fit.run(sum(later.trains_backbone for later in planned[index:]))
    if found is not None:
      done.fitted.append(found.to_tree())
      if done.best is not None and found.best is not None and found.best.score > done.best.score:
        done.best = found.best
    done.phases, done.prepared = index + 1, None
    with interruption.deferred():
      interruption.acted_on()
      done.note(model, record.state, pretraining.probe)
      record.save_state()
    interruption.check()
  assert done.start is not None and done.best is not None, "no phase trains the backbone"
  continuing.assign(changing, done.best.values)
  phases = [Phase.from_json(fitted["phase"]) for fitted in done.fitted]
  policies = {phase.name: StepPolicy(**fitted["policy"]) for phase, fitted in zip(phases, done.fitted)}
  speeds = {phase.name: fitted["examples_per_second"] for phase, fitted in zip(phases, done.fitted)}
  return Result(done.start, done.best, phases, policies, speeds)


def described(metrics: dict[str, float]) -> str:
  """Returns metrics as one line."""
  return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


@dataclasses.dataclass(frozen=True)
class _Fitted:
  """What came of one phase: the `Phase` as it was run, its `StepPolicy`, the best `Measured`, and its speed."""

  phase: Phase
  policy: StepPolicy
  best: Measured | None
  examples_per_second: float

  def to_tree(self):
    """Returns the JSON values of all but `best`."""
    policy = dataclasses.asdict(self.policy)
    return {"phase": self.phase.to_json(), "policy": policy, "examples_per_second": self.examples_per_second}


class _PhaseFit:
  """One phase: its network, its batches and its measurements."""

  def __init__(self, phase, pretraining, changing, done):
    self._phase, self._all, self._changing, self._done = phase, pretraining, changing, done
    objective, model, corpus = pretraining.objective, pretraining.model, pretraining.corpus
    stages.set_trainable(model, phase)
    self._before = audit.state(model, phase)
    self._network = with_phase_steps(objective.network(model, phase), phase)
    self._measure = objective.measure(self._network, phase)
    if done.prepared is None:
      done.prepared = _of_chief(objective.prepare(model, phase, corpus), pretraining.devices)
    self._example = objective.example(model, phase, pretraining.config.seed, done.prepared)
    self._held_out = held_out(pretraining, phase, done.prepared)
    self._steps = PretrainingSteps(self._network, phase, model, lambda: objective.loss(phase))

  def measured(self, name):
    """Returns the `Measured` of the present weights."""
    return Measured(name, self._metrics(), values(self._changing))

  def _metrics(self):
    return self._all.devices.decided(self._own_metrics)

  def _own_metrics(self):
    with precision.computing(self._network, precision.FLOAT32):
      found = self._measure(self._held_out)
    if not np.isfinite(found["loss"]):
      raise RunFailed("the loss on the held-out part is not finite: lower --learning_rate")
    if self._phase.trains_backbone and self._all.probe:
      found["probe"] = self._all.probe()
    return found

  def run(self, remaining):
    """Fits the phase and returns its `_Fitted`; None if --max_minutes leaves no time for it.

    Args:
      remaining: number of phases of the backbone that share the time left, this one included.
    """
    record = self._all.record
    decided = record.state.decide(f"phase {self._phase.name}", lambda: self._decide(remaining))
    if decided["phase"] is None:
      return None
    phase, policy = Phase.from_json(decided["phase"]), StepPolicy(**decided["policy"])
    steps = dataclasses.replace(self._steps, phase=phase)
    steps.compile(policy)
    self._done.note(self._all.model, record.state, self._all.probe)
    watch = _Watch(self, phase, self._all.probe)
    # With several workers a run continues after the last phase that has ended.
    saved = SavedFit(record if self._all.devices.workers == 1 else record.without_state(), phase, self._network, watch)
    watch.interrupted = saved.save
    saved.restore(self._batches, self._all.model.backbone)
    with (
      precision.computing(self._network, policy.precision),
      progress.bar(phase.name, phase.schedule.steps, last_line=False) as bar,
      interruption.deferred(),
    ):
      self._network.fit(
        self._all.devices.distributed(self._batches(saved.skipped)),
        initial_epoch=saved.position.epoch,
        epochs=phase.schedule.epochs,
        steps_per_epoch=phase.schedule.steps_per_epoch,
        callbacks=Callbacks(self._callbacks(phase, watch, bar), saved, self._all.config.checkpoint_minutes),
        verbose=0,
        shuffle=False,  # The dataset is shuffled.
      )
    audit.report(self._all.model, phase, self._before)
    return _Fitted(phase, policy, watch.best, watch.steps * phase.inputs.batch_size / max(watch.seconds, 1e-9))

  def _batches(self, skipped=0):
    batches = self._all.corpus.batches(self._phase.inputs.batch_size, self._all.config.seed, skipped)
    return corpora.stream(batches, self._example)

  def _decide(self, remaining):
    """Returns the phase as it fits into --max_minutes, or None, and its policy, as JSON values."""
    policy = self._policy()
    phase = self._shortened(policy, remaining)
    return {"phase": phase and phase.to_json(), "policy": dataclasses.asdict(policy)}

  def _callbacks(self, phase, watch, bar):
    record = self._all.record
    validation_steps = time_budget.FORWARD * len(self._all.corpus.held_out) / phase.inputs.batch_size
    found = [
      callbacks.StopAtNaN(phase),
      watch,
      callbacks.EpochLog(record, phase),
      callbacks.EpochSummaries(record.paths.tensorboard / phase.name),
      callbacks.ShowProgress(phase, bar, validation_steps, log.info),
    ]
    return found + ([callbacks.StopInTime(lambda: self._all.seconds_left() < 0)] if self._all.deadline else [])

  def _policy(self):
    phase, config, backbone = self._phase, self._all.config, self._all.model.backbone
    if not phase.trains_backbone:
      return precision.PLAIN
    policies = precision.candidates(config.machine, backbone, self._all.devices)
    hurries = self._all.deadline and self._all.seconds_left() < precision.MIN_SECONDS
    num_steps = 0 if hurries else phase.schedule.steps
    return precision.choose(policies, self._steps, self._batches(), num_steps, text.shapes(backbone.preprocess))

  def _shortened(self, policy, remaining):
    """Returns the phase, with the epochs or the part of one that fit into --max_minutes; None if nothing fits."""
    phase = self._phase
    if self._all.deadline is None:
      return phase
    seconds = precision.measure(policy, self._steps, self._batches(), rounds=2)[0]
    # The warm-up of the head may take a quarter of the time.
    share = 1 / remaining if phase.trains_backbone else 1 / 4
    batches = -(-len(self._all.corpus.held_out) // phase.inputs.batch_size)
    done = time_budget.shorten(phase, seconds, share * self._all.seconds_left(), batches)
    if done is not phase:
      left = f"{done.schedule.epochs} x {done.schedule.steps_per_epoch} steps" if done else "no step"
      log.warning(
        "--max_minutes=%g: phase %s at %.2f s a step: %s in place of %d x %d",
        *(self._all.config.max_minutes, phase.name, seconds, left, phase.schedule.epochs),
        phase.schedule.steps_per_epoch,
      )
    return done


def held_out(pretraining: Pretraining, phase: Phase, prepared: typing.Any = None) -> tf.data.Dataset:
  """Returns the batches (inputs, targets) of the held-out part, the same in every epoch and every run.

  Args:
    pretraining: the `Pretraining`.
    phase: the `Phase`.
    prepared: what `PretrainingObjective.prepare` returned.
  """
  example = pretraining.objective.example(pretraining.model, phase, HELD_OUT_SEED, prepared, held_out=True)
  return corpora.stream(pretraining.corpus.held_out_batches(phase.inputs.batch_size), example)


def _of_chief(prepared, devices):
  """Returns what `PretrainingObjective.prepare` returned on the chief: None, or a dict of arrays."""
  return prepared and dict(zip(prepared, devices.arrays(lambda: list(prepared.values()))))


class _Watch(keras.callbacks.Callback):
  """Measures the held-out part after each epoch, keeps the best weights, stops early, and counts the seconds of steps.

  Attributes:
    best: the best `Measured`; None for a phase of the head alone, which keeps its last weights.
    steps, seconds: number of steps after the first ones, which trace, and the seconds they took.
    interrupted: function that is called if an interruption ends a measurement.
  """

  def __init__(self, fit, phase, probe):
    super().__init__()
    self._fit, self._phase, self._probe = fit, phase, probe
    self.best, self.steps, self.seconds, self.interrupted = None, 0, 0.0, lambda: None
    self._best_epoch, self._begin = 0, 0.0

  def get_state(self):
    """Returns what `set_state` takes, as JSON values and NumPy arrays."""
    found = {"steps": self.steps, "seconds": self.seconds, "best_epoch": self._best_epoch}
    probe = self._probe and self._probe.get_state()
    return found | {"best": self.best and dict(vars(self.best)), "probe": probe}

  def set_state(self, saved):
    """Continues an interrupted fit."""
    self.steps, self.seconds, self._best_epoch = saved["steps"], saved["seconds"], saved["best_epoch"]
    self.best = saved["best"] and Measured(**saved["best"])
    if self._probe:
      self._probe.set_state(saved["probe"])

  def on_train_batch_begin(self, batch, logs=None):
    self._begin = time.perf_counter()

  def on_train_batch_end(self, batch, logs=None):
    if batch >= min(3, self._phase.schedule.steps_per_epoch - 1):
      self.steps, self.seconds = self.steps + 1, self.seconds + time.perf_counter() - self._begin

  def on_epoch_end(self, epoch, logs=None):
    # It may take long, so an interruption does not wait for its end.
    with interruption.at_once(self.interrupted):
      measured = self._fit.measured(f"{self._phase.name}/{epoch + 1}")
    logs.update({f"val_{name}": value for name, value in measured.metrics.items()})
    if not self._phase.trains_backbone:
      return
    if self.best is None or measured.score > self.best.score:
      self.best, self._best_epoch = measured, epoch
    elif self._phase.schedule.patience and epoch - self._best_epoch >= self._phase.schedule.patience:
      self.model.stop_training = True
