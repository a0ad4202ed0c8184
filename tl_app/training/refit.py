"""Cross-validation of the probe on frozen features, and its final fit on training and validation examples together.

The folds choose the strength of the regularisation. Their held-out answers, of models that have not seen the example,
stand for the validation split where a model that has learnt from all examples is calibrated and measured.
"""

import dataclasses
import logging

import numpy as np

from tl_app.backbones.weights import values
from tl_app.data.splitting import folds
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.features.frozen import Features
from tl_app.model import heads, stages
from tl_app.model.heads import LabelledFeatures, Part, Solved
from tl_app.recipes.phase import Phase
from tl_app.recipes.probe_solver import MOST_WORK
from tl_app.tasks import statistics
from tl_app.training.selection import SIGNIFICANT, Candidate

log = logging.getLogger(__name__)

# The smallest gain that the validation split should be able to show, as a share of the errors of the probe.
GAIN = 0.1


@dataclasses.dataclass(frozen=True)
class Refit:
  """Whether the probe is cross-validated, and fitted on training and validation examples if it is selected.

  Attributes:
    folds: number of folds; 0 if it is not.
    reason: why, as a sentence.
    strength: of the regularisation, chosen by the folds.
  """

  folds: int
  reason: str
  strength: float = 0.0


def decide(config, features: Features, logits: np.ndarray) -> Refit:
  """Returns the `Refit` of --refit, without a strength.

  `auto` takes the folds where the validation split is too small: McNemar's exact test needs six examples that only one
  of two models gets right, so a gain of `GAIN` of the errors can be seen where the probe makes 6 / `GAIN` errors.

  Args:
    config: the `Config`.
    features: the `Features` of the run.
    logits: of a probe that was fitted on the training split, on the validation split.

  Raises:
    UserError: --refit=always, and there are no folds.
  """
  data, metrics = features.data, features.model.task.metrics
  reason = "" if config.refit == "always" else _against(config, features)
  if reason:
    return Refit(0, reason)
  count = len(_masks(features))
  if count < 2:
    if config.refit == "always":
      raise UserError(f"--refit=always: {folds.TOO_FEW}; remove the flag")
    return Refit(0, folds.TOO_FEW)
  if config.refit == "always":
    return Refit(count, "--refit=always")
  size, needed = len(data.validation), round(_least_examples() / GAIN)
  errors, what = size, f"the validation split has {number_of(size, 'example')}"
  if metrics.counts_right_answers:
    errors = round((1 - metrics.score(logits, data.validation_targets)) * size)
    what = f"the probe answers {errors:,} of {size:,} validation examples wrong"
  shows = f"with {needed} a gain of {GAIN:.0%} is significant"
  return Refit(count if errors < needed else 0, f"{what}; {shows}")


def _least_examples():
  """Returns how many examples only one of two models must get right for a significant difference."""
  count = 100
  return round((statistics.least_difference(count, SIGNIFICANT) or 1) * count)


def _against(config, features):
  """Returns why --refit=auto does not take the folds, or ""."""
  if config.refit == "never":
    return "--refit=never"
  if "validation" not in features.data.split.settings.get("sampled", ()):
    return "the validation split was given"
  limit = next((name for name in ("max_examples", "max_examples_per_class") if getattr(config, name)), "")
  if limit:
    return f"--{limit} limits the examples that are learnt from"
  if config.time_column:
    return "--time_column: the validation examples are later than the training examples"
  if config.adapt != "none":
    return f"--adapt={config.adapt} compares on the validation split"
  width, outputs = features.model.backbone.feature_size, len(features.model.task.names)
  if folds.FOLDS * len(features.frozen().rows) * width * outputs > MOST_WORK:
    return "cross-validation would take too long"
  return ""


def cross_validate(phase: Phase, features: Features, strength: float | None = None) -> Solved:
  """Returns what `heads.solve` returns for the parts of the folds.

  Args:
    phase: the `Phase` of the probe.
    features: the `Features` of the run.
    strength: the only one to try; None tries several.
  """
  parts = [_part(features, ~held_out, held_out) for held_out in _masks(features)]
  return heads.solve(features.model.head, phase.optimizer.solver, features.model.task, parts, strength)


def fold_rows(features: Features) -> list[tuple[np.ndarray, np.ndarray]]:
  """Returns (rows to train on, rows that are held out) of each fold, in the order of `refitted`; no copies."""
  rows = _examples(features.data)
  return [(rows[~held_out], rows[held_out]) for held_out in _masks(features)]


def fit_fold(phase: Phase, features: Features, strength: float) -> None:
  """Fits the head of the model on the training split of `features` with a known strength.

  Args:
    phase: the `Phase` of the probe.
    features: the `Features` of a fold, whose validation split is held out.
    strength: of the regularisation.
  """
  model, count = features.model, len(features.data.train)
  fitted = np.arange(len(_examples(features.data))) < count
  part = _part(features, fitted, ~fitted)
  found = heads.solve(model.head, phase.optimizer.solver, model.task, [part], strength)
  heads.set_logits(model.head, found.weights[0])


def _masks(features):
  """Returns for each fold which of the training and validation examples are held out, bool [n]."""
  data = features.data
  found = folds.held_out(data.split, _examples(data), int(data.split.settings["split_seed"]))
  positions = np.arange(len(data.train) + len(data.validation))
  return [np.isin(positions, part) for part in found]


def _examples(data):
  return np.concatenate([data.train, data.validation])


def _part(features, fitted, held_out):
  """Returns the `Part` of the training and validation examples that two masks select; copies are never held out."""
  data, frozen = features.data, features.frozen()
  in_train, in_validation = np.split(fitted, [len(data.train)])
  rows = np.concatenate([data.train_rows[:, in_train].ravel(), data.validation[in_validation]])
  held = _examples(data)[held_out]
  return Part(
    LabelledFeatures(frozen[rows], frozen.targets(data.targets, rows)),
    LabelledFeatures(frozen[held], data.targets[held], lambda logits: frozen.by_example(logits, held)),
  )


def refitted(candidate: Candidate, phases: list[Phase], features: Features, refit: Refit) -> Candidate:
  """Returns the probe, fitted on training and validation examples, with the answers of the folds.

  Args:
    candidate: the probe of the training split. The model gets its values.
    phases: the phases of the `Plan`.
    features: the `Features` of the run.
    refit: the `Refit`.
  """
  data, model = features.data, features.model
  changing = stages.changing(model, phases)
  for variable, value in zip(changing, candidate.values):
    variable.assign(value)

  def fit():
    found = cross_validate(phases[0], features, refit.strength)
    every = np.ones(len(_examples(data)), bool)
    whole = heads.solve(
      model.head, phases[0].optimizer.solver, model.task, [_part(features, every, every)], refit.strength
    )
    heads.set_logits(model.head, whole.weights[0])
    return [np.concatenate(found.logits), *model.head.get_weights()]

  logits, *weights = features.devices.arrays(fit)
  model.head.set_weights(weights)
  estimate = {"estimate": "cross_validation", "folds": refit.folds}
  rows = np.concatenate([held_out for _, held_out in fold_rows(features)])
  answers = {"logits": logits, "rows": rows, "estimate": estimate}
  return dataclasses.replace(candidate, values=values(changing), **answers)
