"""Fits one phase: sets what trains, compiles, feeds, fits, restores the best epoch, and audits the variables."""

import dataclasses
import logging
import math
import typing

from tl_app.errors import interruption
from tl_app.errors.counts import number_of
from tl_app.features.frozen import Features
from tl_app.features.rows import FeatureRows
from tl_app.model import audit, graphs, heads, stages
from tl_app.preprocessing import text
from tl_app.recipes.phase import HEAD, Phase
from tl_app.terminal import progress
from tl_app.training import (
  callbacks,
  closed_form,
  feed,
  head_scale,
  input_profile,
  objectives,
  precision,
  time_budget,
  time_limit,
)
from tl_app.training.compiling import PhaseSteps, with_phase_steps
from tl_app.training.continuing import Callbacks, SavedFit
from tl_app.training.feed import Feed
from tl_app.training.phase_result import PhaseResult, as_saved
from tl_app.training.precision import StepPolicy
from tl_app.training.time_limit import TimeLimit
from tl_app.workdir import Record

log = logging.getLogger(__name__)

# A phase with so many steps is measured before it starts, which takes six of them.
MEASURED_STEPS = 100


@dataclasses.dataclass(frozen=True)
class _Prepared:
  """A phase before its first step.

  Attributes:
    phase: the `Phase`.
    feed: the `Feed`.
    steps: the `PhaseSteps` on the network of `feed`.
    policy: the `StepPolicy`.
    before: the `audit.State` before the phase.
  """

  phase: Phase
  feed: Feed
  steps: PhaseSteps
  policy: StepPolicy
  before: audit.State


def fit(
  phase: Phase,
  features: Features,
  config,
  record: Record,
  limit: TimeLimit | None = None,
  remaining_phases: int = 1,
) -> PhaseResult:
  """Runs one phase. Afterwards the model has the weights of its best epoch.

  Args:
    phase: the `Phase`.
    features: the `Features` of the run.
    config: the `Config`, for seed, precision, XLA and input profile.
    record: the `Record` of the run.
    limit: the `TimeLimit`, or None.
    remaining_phases: number of phases that share the remaining time, including this one.
  """
  model, data = features.model, features.data
  with record.clock("train"), features.devices.scope():
    recomputed = features.recomputed() if phase.inputs.recompute_features else None
    if not phase.trains_backbone:
      return _fit_head(phase, features, recomputed, config, record)
    if phase.trains.reset_head:
      heads.reset(model.head, model.task.loss.initial_bias(data.train_targets))
    return _GradientFit(features, recomputed, config, record, limit, remaining_phases).run(phase)


def fit_head(phase: Phase, features: Features, rows: FeatureRows, config, record: Record) -> PhaseResult:
  """Runs a phase of the head on other features than the frozen ones; otherwise as `fit`. Its state is not saved.

  Args:
    phase: a `Phase` that trains the head alone.
    features: the `Features` of the run.
    rows: features of every example of the training and validation splits.
    config: the `Config`.
    record: the `Record` of the run.
  """
  with record.clock("train"), features.devices.scope():
    return _fit_head(phase, features, rows, config, record.without_state())


def _fit_head(phase, features, recomputed, config, record):
  """Fits the head on the features `recomputed`, or on the frozen ones if None."""
  model, data = features.model, features.data
  if recomputed is not None:
    heads.standardize(model.head, recomputed[data.train])
  if phase.trains.reset_head:
    heads.reset(model.head, model.task.loss.initial_bias(data.train_targets))
  if phase.optimizer.uses_gradients:
    return _GradientFit(features, recomputed, config, record, None, 1).run(phase)
  stages.set_trainable(model, phase)
  before = audit.state(model, phase)
  decided = closed_form.fit(phase, features, recomputed, config)
  audit.report(model, phase, before)
  return PhaseResult(phase, phase, refit=decided)


def whole_network_steps(phase: Phase, features: Features, seed: int) -> tuple[Feed, PhaseSteps]:
  """Returns the `Feed` and the `PhaseSteps` that run the whole backbone in every step."""
  phase_feed = feed.whole_network(phase, features, seed)
  return phase_feed, _steps(phase, features, phase_feed)


def steps_of(phase: Phase, features: Features, seed: int) -> tuple[Feed, PhaseSteps]:
  """Returns the `Feed` and the `PhaseSteps` of `fit` without --max_minutes, see `whole_network_steps`."""
  phase_feed = feed.from_trunk(phase, features, seed) or feed.whole_network(phase, features, seed)
  return phase_feed, _steps(phase, features, phase_feed)


def _steps(phase, features, phase_feed):
  network = with_phase_steps(phase_feed.network, phase)
  return PhaseSteps(network, phase, features.model, features.data.train_targets)


@dataclasses.dataclass(frozen=True)
class _GradientFit:
  """Fits phases by gradient descent. Attributes: the arguments of `fit`, and `recomputed` as in `_fit_sklearn`."""

  features: Features
  recomputed: FeatureRows | None
  config: typing.Any
  record: Record
  limit: TimeLimit | None
  remaining_phases: int

  def run(self, planned):
    """Returns the `PhaseResult` of a phase."""
    name = f"phase {planned.name}"
    decided = self.record.state.decided(name)
    prepared = self._as_decided(planned, decided) if decided else self._decide(planned)
    factor = head_scale.apply(prepared, self.features, decided)
    self.record.state.decide(name, lambda: _decisions(prepared, factor))
    if prepared is None:
      return PhaseResult(planned, None)
    averaged = self._fit(prepared)
    audit.report(self.features.model, prepared.phase, prepared.before)
    return PhaseResult(planned, prepared.phase, prepared.policy, averaged)

  def _decide(self, planned):
    """Returns what fits into --max_minutes of a phase, prepared, or None."""
    prepared = self._prepare(planned, profile=self.config.profile_input)
    if not self.limit:
      if planned.trains_backbone and planned.schedule.steps >= MEASURED_STEPS:
        self._announce_cost(prepared)
      return prepared
    done = self._shortened(prepared)
    if done and done.trains != planned.trains:
      prepared = self._prepare(done)
      done = self._shortened(prepared, keep_stages=True)
    return self._with_schedule(prepared, done) if done else None

  def _announce_cost(self, prepared):
    """Logs how long a phase takes at most, from measured steps."""
    phase, schedule = prepared.phase, prepared.phase.schedule
    seconds = _seconds_of(prepared.steps, prepared.policy, prepared.feed)
    validations = math.ceil(len(self.features.data.validation) / phase.inputs.batch_size)
    total = seconds * (schedule.steps + time_budget.FORWARD * schedule.epochs * validations)
    log.info(
      "phase %s: at most %s of %.2f s, as measured: %s; --max_minutes sets a limit, --preset=quick skips it",
      *(phase.name, number_of(schedule.steps, "step"), seconds, progress.about(total)),
    )

  def _as_decided(self, planned, decided):
    """Returns a phase, prepared as the interrupted run has decided; None if --max_minutes left no time for it."""
    phase = as_saved(decided["phase"], planned)
    return phase and self._prepare(phase, decided=decided)

  def _prepare(self, phase, profile=False, decided=None):
    """Sets what trains, makes the feed and the steps, and chooses the step policy, unless it is `decided`."""
    model = self.features.model
    stages.set_trainable(model, phase)
    before = audit.state(model, phase)
    phase_feed = self._feed(phase, decided)
    steps = _steps(phase, self.features, phase_feed)
    if not phase.trains_backbone:
      return _Prepared(phase, phase_feed, steps, precision.PLAIN, before)
    if decided:
      return _Prepared(phase, phase_feed, steps, StepPolicy(**decided["policy"]), before)
    policies = precision.candidates(
      *(self.config.machine, model.backbone, self.features.devices), token_batches=bool(self.config.batch_tokens)
    )
    hurries = self.limit and self.limit.seconds_left() < precision.MIN_SECONDS
    shapes = text.shapes(model.backbone.preprocess)
    policy = precision.choose(policies, steps, phase_feed.dataset(), 0 if hurries else phase.schedule.steps, shapes)
    if profile:
      input_profile.profile_training_steps(phase, phase_feed.steps, steps, policy, self.record)
    return _Prepared(phase, phase_feed, steps, policy, before)

  def _feed(self, phase, decided):
    if not phase.trains_backbone:
      return feed.head_alone(phase, self.features, self.recomputed, self.config.seed)
    found, seed = None, self.config.seed
    if not decided:
      found = feed.from_trunk(phase, self.features, seed, self._as_shortened(phase))
    elif decided["reads_trunk"]:
      # Two epochs are the smallest number with which the trunk is stored.
      stored = phase.replace(epochs=max(2, phase.schedule.epochs))
      found = feed.from_trunk(phase, self.features, seed, stored)
      if not found:
        log.warning("phase %s: the stored features of its frozen stages cannot be used; results may differ", phase.name)
    return found or feed.whole_network(phase, self.features, seed)

  def _as_shortened(self, phase):
    """Returns the phase, with one epoch if --max_minutes leaves time for only one.

    Storing trunk features pays off only from the second epoch on.

    Args:
      phase: a phase that trains the backbone.
    """
    splits = self.features.model.backbone.can_split(graphs.lowest_active(self.features.model, phase))
    stores = splits and objectives.of(phase).fits_head
    if self.limit and stores and phase.schedule.epochs > 1 and not phase.inputs.mixes:
      shortened = self._shorten(phase, self._seconds_of_whole_steps(phase))
      if shortened is None or shortened.schedule.epochs < 2:
        return phase.replace(epochs=1)
    return phase

  def _shorten(self, phase, step_seconds):
    return self.limit.shorten(phase, step_seconds, self.features.data, self.remaining_phases)

  def _shortened(self, prepared, keep_stages=False):
    """Returns the part of a prepared phase that fits into --max_minutes, or None, and logs it.

    Args:
      prepared: the `_Prepared`.
      keep_stages: whether only its epochs may be shortened; see `time_limit.fit_into`.
    """
    phase, model = prepared.phase, self.features.model
    step_seconds = _seconds_of(prepared.steps, prepared.policy, prepared.feed)
    if keep_stages:
      done = self._shorten(phase, step_seconds)
    else:
      selected = stages.selected(model, phase).items()
      trained = [name for name, variables in selected if variables and name != HEAD]
      done = time_limit.fit_into(phase, step_seconds, trained, self._shorten, self._seconds_of_narrower)
      # The measurements have made other stages trainable.
      stages.set_trainable(model, phase)
    if done is not None:
      most = progress.about(step_seconds * done.schedule.steps)
      log.info(
        "phase %s: at most %d steps of %.2f s, as measured: %s", done.name, done.schedule.steps, step_seconds, most
      )
    if done is not phase:
      seconds = self.limit.seconds_for(phase, step_seconds, self.features.data, self.remaining_phases)
      time_limit.report(self.limit, phase, done, seconds, step_seconds)
    return done

  def _seconds_of_narrower(self, phase):
    stages.set_trainable(self.features.model, phase)
    return self._seconds_of_whole_steps(phase)

  def _seconds_of_whole_steps(self, phase):
    """Returns the seconds of a step that runs the whole backbone."""
    phase_feed, steps = whole_network_steps(phase, self.features, self.config.seed)
    return _seconds_of(steps, precision.PLAIN, phase_feed)

  def _with_schedule(self, prepared, phase):
    """Returns `prepared` for the shortened phase."""
    if phase is prepared.phase:
      return prepared
    phase_feed = prepared.feed
    if phase.inputs.mixes or objectives.of(phase).plans_batches:
      # The batches depend on the number of steps.
      phase_feed = dataclasses.replace(phase_feed, steps=feed.training_steps(phase, self.features, self.config.seed))
    steps = dataclasses.replace(prepared.steps, phase=phase)
    return dataclasses.replace(prepared, phase=phase, feed=phase_feed, steps=steps)

  def _fit(self, prepared):
    """Fits, restores the values of the best epoch, and returns the averaged values, or None."""
    phase, steps, model = prepared.phase, prepared.steps, self.features.model
    steps.compile(prepared.policy)
    best = callbacks.KeepBest(
      stages.changing(model, [phase]),
      phase.schedule.monitor,
      phase.schedule.patience,
      lambda: audit.has_moved(model, prepared.before),
    )
    # With several workers a run continues after the last phase that has ended.
    record = self.record if self.features.devices.workers == 1 else self.record.without_state()
    saved = SavedFit(record, phase, steps.network, best)
    saved.restore(prepared.feed.dataset, model.backbone)
    with (
      precision.computing(steps.network, prepared.policy.precision),
      progress.bar(phase.name, phase.schedule.steps, last_line=False) as bar,
      interruption.deferred(),
    ):
      steps.network.fit(
        self.features.devices.distributed(prepared.feed.dataset(saved.skipped)),
        initial_epoch=saved.position.epoch,
        epochs=phase.schedule.epochs,
        steps_per_epoch=phase.schedule.steps_per_epoch,
        callbacks=Callbacks(self._callbacks(prepared, best, bar, saved), saved, self.config.checkpoint_minutes),
        verbose=0,
        shuffle=False,  # The dataset is shuffled.
      )
    log.info("phase %s: %s", phase.name, best.summary(phase.schedule.epochs))
    return best.averaged_values

  def _callbacks(self, prepared, best, bar, saved):
    """Returns the callbacks of a phase; validation comes first, since the others read its metrics."""
    phase, validation_logits = prepared.phase, prepared.feed.validation_logits
    labels, task = self.features.data.validation_targets, self.features.model.task
    validated = [] if phase.schedule.monitor else [best]
    if validation_logits and phase.schedule.monitor:
      exact = precision.in_float32(prepared.steps.network, validation_logits)
      validated = [callbacks.Validate(exact, labels, task, self.features.devices, saved.save), best]
    watching = [
      callbacks.StopAtNaN(phase),
      *validated,
      callbacks.EpochLog(self.record, phase),
      callbacks.EpochSummaries(self.record.paths.tensorboard / phase.name),
      callbacks.ShowProgress(phase, bar, time_budget.FORWARD * len(labels) / phase.inputs.batch_size, log.info),
    ]
    return watching + ([callbacks.StopInTime(self.limit.is_over)] if self.limit else [])


def _decisions(prepared, head_factor):
  """Returns what was decided about a phase, a JSON value; `prepared` is None if --max_minutes leaves no time for it."""
  if prepared is None:
    return {"phase": None}
  return {
    "phase": prepared.phase.to_json(),
    "policy": dataclasses.asdict(prepared.policy),
    "reads_trunk": prepared.feed.reads_trunk,
    "head_factor": head_factor,
  }


def _seconds_of(steps, policy, phase_feed):
  """Returns the seconds of a step. Only one round is measured, since its time is lost for training."""
  return precision.measure(policy, steps, phase_feed.dataset(), rounds=2)[0]
