"""Cross-validation of fine-tuning, where a validation split is too small to tell it from the probe.

Each fold is a small run: the probe is fitted on the training part, the phases of the recipe train from it, and the
result answers the held-out examples. On these examples it is compared with the probe. If fine-tuning wins, the final
model is trained on training and validation examples together, with the same schedule as the folds.
"""

import dataclasses
import logging
import math
from collections.abc import Callable

import keras
import numpy as np

from tl_app.backbones.weights import values
from tl_app.config import AUTO, Config
from tl_app.data.training_data import TrainingData
from tl_app.errors.counts import number_of
from tl_app.features.frozen import Features
from tl_app.model import stages
from tl_app.recipes.phase import Phase
from tl_app.terminal import progress
from tl_app.training import closed_form, continuing, fit, precision, refit, selection, time_budget
from tl_app.training.precision import PLAIN
from tl_app.training.refit import Refit
from tl_app.training.selection import Candidate
from tl_app.training.time_limit import TimeLimit
from tl_app.workdir import Record

log = logging.getLogger(__name__)

# Longest time of the folds and of the final model with --refit=auto, in seconds, by --preset: few examples are expected
# to take few minutes. Where it does not allow all folds, fewer are run.
MOST_SECONDS = {"quick": 240.0, "balanced": 240.0, "best": 1200.0}
# With so many held-out answers, further folds are run only if all take at most so many seconds; not so for `best`.
ENOUGH_ANSWERS, CHEAP_SECONDS = 100, 60.0
# Name of the part of the `RunState` with the answers of the folds that have ended.
PART = "folds"


@dataclasses.dataclass(frozen=True)
class Crossed:
  """What cross-validation has shown.

  Attributes:
    candidates: the probe, and unless `skipped` the fine-tuned candidate, with answers for the same held-out examples.
      The values of the probe are those of its fit on training and validation examples together. The fine-tuned one has
      no values.
    features: the `Features` whose training split is both splits together.
    phases: those that train the final model from the probe; [] if the probe is selected.
    skipped: why nothing is fine-tuned on both splits; "" if something is.
  """

  candidates: list[Candidate]
  features: Features
  phases: list[Phase]
  skipped: str


def why_not(config: Config, phases: list[Phase], features: Features) -> str:
  """Returns why the fine-tuning of these phases is not cross-validated, or "".

  Args:
    config: the `Config`.
    phases: the phases of the `Plan`, the probe first.
    features: the `Features` of the run.
  """
  model, data = features.model, features.data
  if features.devices.workers > 1:
    return "it runs on one machine only"
  if not model.backbone.pretrained:
    return "early stopping on the validation split ends the training of random weights"
  if config.select not in (AUTO, "fine_tuned"):
    return f"--select={config.select}"
  if config.fine_tuning_seeds > 1 or config.interpolate not in (AUTO, "none"):
    return "soups and interpolated weights are compared on the validation split"
  if any(phase.inputs.recompute_features and phase.optimizer.uses_gradients for phase in phases):
    return "early stopping on the validation split ends the training of the last head"
  if config.answers.needs_ood:
    return "the out-of-distribution score needs validation examples that the model has not learnt from"
  if len(data.train_rows) > 1:
    return f"--augment_copies={config.augment_copies} copies the training examples only"
  if model.task.per_token:
    return f"--task={model.task.name} answers each word"
  if any(phase.inputs.microbatches > 1 for phase in phases):
    return "--batch_size=auto divides the batches"
  return ""


def enough_folds(folds: int, held: int) -> int:
  """Returns how many of `folds` folds, which hold out `held` examples each, have `ENOUGH_ANSWERS` together."""
  return min(folds, math.ceil(ENOUGH_ANSWERS / held))


@dataclasses.dataclass(frozen=True)
class CrossValidation:
  """Cross-validation of the fine-tuning of a run.

  Attributes:
    phases: the phases of the `Plan`, the probe first, without those that fine-tune again from the probe.
    features: the `Features` of the run, whose model holds the probe of the training split.
    config: the `Config`.
    record: the `Record` of the run.
    limit: the `TimeLimit`, or None.
    plan: function (the `TrainingData` of a fold) -> the phases of the recipe for that many examples.
  """

  phases: list[Phase]
  features: Features
  config: Config
  record: Record
  limit: TimeLimit | None
  plan: Callable[[TrainingData], list[Phase]]

  def run(self, probe: Candidate, decided: Refit) -> Crossed | None:
    """Returns what the folds show, or None if fine-tuning is compared with the probe on the validation split.

    The model has the values from before. A fold that has ended is not run again when the run continues.

    Args:
      probe: the candidate of the training split.
      decided: the `Refit` of the probe, with folds.
    """
    reason = why_not(self.config, self.phases, self.features)
    if reason:
      log.info("fine-tuning is not cross-validated: %s", reason)
      self._note(0, reason)
      return None
    network, random = self.features.model.network, continuing.random_state()
    start = values(network.variables)
    with self.record.clock("train"):
      found = self._run(refit.refitted(probe, self.phases, self.features, decided), decided, start)
    continuing.assign(network.variables, start)
    if found:
      # The same for a run that continues after the folds.
      keras.utils.set_random_seed(self.config.seed)
    else:
      continuing.set_random_state(random)
    return found

  def _run(self, probe, decided, start):
    parts = refit.fold_rows(self.features)
    whole = self.features.with_parts(np.concatenate(parts[0]), np.zeros(0, np.int64))
    final = self._fixed(whole)
    reason = selection.cannot_win(probe, self.phases[1], self.features, self.config)
    if reason:
      self._note(0, reason)
      return Crossed([probe], whole, [], reason)
    continuing.assign(self.features.model.network.variables, start)
    planned = self.record.state.decide("cross_validation", lambda: self._planned(parts, final))
    log.info("%s", planned["reason"])
    self._note(planned["folds"], planned["reason"])
    if not planned["folds"]:
      return None
    answers, in_time = self._answers(probe, decided, parts, planned, start)
    if not in_time:
      reason = "--max_minutes: the folds took longer than measured, so the probe is the model"
      log.warning("%s", reason)
      self._note(len(answers), reason)
      return Crossed([probe], whole, [], reason)
    compared, strength = self._compared(probe, answers)
    final = [phase.replace(strength=strength) if phase.inputs.recompute_features else phase for phase in final]
    won = selection.of_run(compared, self.features, self.config).best is compared[1]
    self._note(len(answers), planned["reason"])
    return Crossed(compared, whole, final if won else [], "" if won else f"it did not win {compared[1].measured}")

  def _note(self, folds, reason):
    """Notes for plan.json how many folds were run, and why."""
    self.record.note("cross_validation", {"folds": folds, "reason": reason})

  def _fixed(self, features):
    """Returns the phases after the probe for the training split of `features`; they keep the weights of their end."""
    planned = self.plan(features.data)[1:]
    return [phase.replace(monitor="", patience=0, ema=0.0) for phase in planned if not phase.trains.restart]

  def _planned(self, parts, final):
    """Returns {"folds", "reason", "seconds"}, with 0 folds if they take too long, from the measured time of a step."""
    train, held = parts[0]
    folds = [self.features.with_parts(*part) for part in parts]
    plans = [[phase for phase in self._fixed(fold) if phase.trains_backbone] for fold in folds]
    phases, final = plans[0], [phase for phase in final if phase.trains_backbone]
    step, first = _measured_step(phases[-1], folds[0], self.config.seed)
    # The folds continue with the steps that were compiled for the measurement, if they have the same ones.
    compiled = 0.0 if plans == [phases[-1:]] * len(plans) else first
    steps = sum(phase.schedule.steps for phase in phases)
    last_steps = sum(phase.schedule.steps for phase in final)
    # Heads are fitted on new features of all examples; the models answer the held-out ones, or those of the test split.
    fitted = 0 if self.phases[-1].trains_backbone else len(train)
    refitted = fitted and len(train) + len(held)
    answered, last_answered = (
      time_budget.FORWARD * math.ceil(count / phases[-1].inputs.batch_size)
      for count in (fitted + len(held), refitted + len(self.features.data.test))
    )
    seconds, rest = compiled + step * (steps + answered), first + step * (last_steps + last_answered)
    count, why_fewer = self._affordable(len(parts), len(held), seconds, rest)
    run = max(count, 1)
    what = (
      f"{number_of(run, 'fold')} of {number_of(steps, 'step')} of {step:.2f} s, as measured: "
      f"{progress.about(run * seconds)}, and {progress.about(rest)} if it wins"
    )
    reason = ""
    if not count:
      reason = f"longer together than {self._most()}; --refit=always cross-validates it"
    elif self.limit and not self._fits(count * seconds + rest):
      reason = f"--max_minutes={self.limit.max_minutes:g} does not allow it"
    told = f"fine-tuning is cross-validated: {what}{why_fewer}"
    if reason:
      told = f"fine-tuning is compared on the validation split alone, not cross-validated ({what}): {reason}"
    return {"folds": 0 if reason else count, "reason": told, "seconds": seconds, "final": rest}

  def _affordable(self, folds, held, seconds, rest):
    """Returns (how many folds of `held` held-out examples are run, in words why not all of them)."""
    if self.config.refit != AUTO:
      return folds, ""
    enough, most = folds, MOST_SECONDS[self.config.preset]
    if self.config.preset != "best":
      enough = max(enough_folds(folds, held), int(CHEAP_SECONDS // seconds))
    fit = max(0, int((most - rest) // seconds))
    if fit < min(enough, folds):
      return fit, f"; with all {folds} folds it would be longer than {self._most()}, --refit=always runs them"
    if enough < folds:
      return (
        enough,
        f"; {enough * held:,} held-out examples are enough to choose by, --refit=always runs all {folds} folds",
      )
    return folds, ""

  def _most(self):
    return f"the {MOST_SECONDS[self.config.preset] / 60:.0f} min of --preset={self.config.preset}"

  def _fits(self, seconds):
    assert self.limit
    return self.limit.seconds_left() - time_budget.CLOSING_SECONDS[self.limit.export] >= seconds

  def _answers(self, probe, decided, parts, planned, start):
    """Returns (what `_fold` returns for each fold, whether --max_minutes left the time for them).

    Folds end when the probe is better by one standard error: fine-tuning costs the most where it does not help. They do
    not end early where it helps, since their answers calibrate and measure the final model.
    """
    state = self.record.state
    # Keys of the state are strings.
    saved = (state.take(PART) or {"folds": []})["folds"]
    answers = [dict(zip(fold["strengths"], fold["logits"])) for fold in saved]
    needed = {"next fold": planned["seconds"] + planned["final"], "final model": planned["final"]}
    while len(answers) < planned["folds"] and not (answers and self._loses(self._compared(probe, answers)[0])):
      number = len(answers) + 1
      if self.limit and not state.decide(f"fold {number}", lambda: self._fits(needed["next fold"])):
        return answers, False
      continuing.assign(self.features.model.network.variables, start)
      keras.utils.set_random_seed(self.config.seed)
      of_fold = self.features.with_parts(*parts[number - 1])
      with progress.quiet("tl_app.training"), progress.quiet("tl_app.model"), progress.quiet("tl_app.features"):
        answers.append(self._fold(of_fold, decided.strength, number))
      compared = self._compared(probe, answers)[0]
      one, other = (self._score(candidate) for candidate in compared)
      log.info(
        "fold %d of %d: %s of fine-tuning %.4f, of the probe %.4f, on %s held-out examples so far",
        *(number, planned["folds"], self.features.model.task.metrics.primary_title, other, one),
        f"{len(compared[0].logits):,}",
      )
      continuing.save_part(self.record, PART, lambda: {"folds": [_saved(fold) for fold in answers]})
    fits = not self.limit or state.decide("final model", lambda: self._fits(needed["final model"]))
    return answers, fits

  def _fold(self, features, strength, number):
    """Returns {strength: logits of the validation split} of fine-tuning on the training split of `features`.

    The strengths are those of the regularisation of the last head, 0 for one that is trained with the backbone.
    """
    refit.fit_fold(self.phases[0], features, strength)
    record = self.record.without_state()
    for phase in self._fixed(features):
      if phase.inputs.recompute_features:
        return closed_form.answers(phase, features)
      settings = dataclasses.replace(self.config, profile_input=False, seed=self.config.seed + phase.inputs.seed_offset)
      fit.fit(phase.replace(name=f"{phase.name}_fold_{number}"), features, settings, record)
    return {0.0: selection.finite("fine_tuned", features.logits(features.data.validation))}

  def _compared(self, probe, answers):
    """Returns (the probe and the fine-tuned candidate on the held-out examples of the folds so far, see `_pooled`)."""
    strength, logits = _pooled(answers, probe, self.features)
    rows, estimate = probe.rows[: len(logits)], probe.estimate | {"folds": len(answers)}
    shared = {"rows": rows, "estimate": estimate}
    return [
      dataclasses.replace(probe, logits=probe.logits[: len(logits)], **shared),
      Candidate("fine_tuned", logits, [], self.phases[-1].name, **shared),
    ], strength

  def _score(self, candidate):
    targets = candidate.answered(self.features.data).targets
    return self.features.model.task.metrics.score(candidate.logits, targets)

  def _loses(self, compared):
    """Returns whether the probe is better by one standard error or more."""
    probe, tuned = compared
    if self.config.select != AUTO or self.config.select_metric != "primary":
      return False
    targets, task = probe.answered(self.features.data).targets, self.features.model.task
    p_value = task.metrics.p_value(probe.logits, tuned.logits, targets)
    return self._score(tuned) < self._score(probe) and p_value <= selection.ONE_STANDARD_ERROR


def _measured_step(phase, features, seed):
  """Returns the seconds of a training step, and of the first one, which compiles. The variables keep their values."""
  with features.devices.scope():
    stages.set_trainable(features.model, phase)
    phase_feed, steps = fit.steps_of(phase, features, seed)
    seconds, _, first = precision.measure(PLAIN, steps, phase_feed.dataset(), rounds=2)
  return seconds, first


def _saved(fold):
  return {"strengths": list(fold), "logits": list(fold.values())}


def _pooled(answers, probe, features):
  """Returns (the strength of the last head with the lowest calibrated loss in all folds, its answers in all folds)."""
  tried = [strength for strength in answers[0] if all(strength in fold for fold in answers)]
  pooled = {strength: np.concatenate([fold[strength] for fold in answers]) for strength in tried}
  targets = features.data.targets[probe.rows]

  def loss(strength):
    logits = pooled[strength]
    return features.model.task.calibrated_loss(logits, targets[: len(logits)])

  best = min(tried, key=loss) if len(tried) > 1 else tried[0]
  return best, pooled[best]
