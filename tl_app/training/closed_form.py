"""Fits a linear head in closed form, with scikit-learn, and decides whether few examples are used whole."""

import dataclasses
import logging

import numpy as np

from tl_app.errors.counts import number_of
from tl_app.features.frozen import Features
from tl_app.features.rows import FeatureRows
from tl_app.model import heads
from tl_app.recipes.phase import Phase
from tl_app.training import feed, refit
from tl_app.training.refit import Refit

log = logging.getLogger(__name__)

# {solver: (its name, scikit-learn's name of the strength of its regularisation)}.
_NAMES = {
  "logistic": ("logistic regression", "C"),
  "ridge": ("ridge regression", "alpha"),
  "svm": ("a support vector machine", "C"),
}


def fit(phase: Phase, features: Features, recomputed: FeatureRows | None, config) -> Refit | None:
  """Fits the head with scikit-learn on the features `recomputed`, or on the frozen ones if None.

  Args:
    phase: a `Phase` whose solver is one of scikit-learn.
    features: the `Features` of the run.
    recomputed: features of the current backbone, or None for the frozen ones.
    config: the `Config`.

  Returns:
    The `Refit`; None for features that are not the frozen ones.
  """
  data, solver, task = features.data, phase.optimizer.solver, features.model.task
  head, part = features.model.head, _part(features, recomputed)

  def solve():
    if strength := phase.optimizer.strength:
      solved = heads.solve(head, solver, task, [dataclasses.replace(part, held_out=part.train)], strength)
      heads.set_logits(head, solved.weights[0])
      return None
    solved = heads.solve(head, solver, task, [part])
    _log_strength(solver, solved, f"on {number_of(len(data.validation), 'validation example')}")
    decided = None if recomputed is not None else refit.decide(config, features, solved.logits[0])
    if decided:
      log.info("probe: %s", _as_words(decided))
    if decided and decided.folds:
      crossed = refit.cross_validate(phase, features)
      _log_strength(solver, crossed, f"on the held-out examples of {number_of(len(crossed.logits), 'fold')}")
      decided = dataclasses.replace(decided, strength=crossed.strength)
      solved = heads.solve(head, solver, task, [part], crossed.strength)
    heads.set_logits(head, solved.weights[0])
    return decided and dataclasses.asdict(decided)

  decided = features.devices.decided(solve)
  head.set_weights(features.devices.arrays(head.get_weights))
  return decided and Refit(**decided)


def answers(phase: Phase, features: Features) -> dict[float, np.ndarray]:
  """Returns {strength: logits of the validation split} of heads on the features of the current backbone.

  Args:
    phase: a `Phase` that recomputes the features, whose solver is one of scikit-learn.
    features: the `Features` of the run. The head of the model changes.
  """
  model = features.model
  with features.devices.scope():
    recomputed = features.recomputed()
    heads.standardize(model.head, recomputed[features.data.train])
    return heads.solve(model.head, phase.optimizer.solver, model.task, [_part(features, recomputed)]).path


def _part(features, recomputed):
  """Returns the `heads.Part` of the training and validation splits."""
  data = features.data
  feature_rows, rows = feed.training_features(features, recomputed)
  return heads.Part(
    heads.LabelledFeatures(feature_rows[rows], feature_rows.targets(data.targets, rows)),
    heads.LabelledFeatures(
      feature_rows[data.validation],
      data.validation_targets,
      lambda logits: feature_rows.by_example(logits, data.validation),
    ),
  )


def _log_strength(solver, solved, where):
  chosen = next(values for values in solved.tried if values["strength"] == solved.strength)
  listed = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in chosen.items() if name != "strength")
  best = f", the best of {len(solved.tried)}" if len(solved.tried) > 1 else ""
  log.info("probe: %s with %s = %g%s: %s %s", *_NAMES[solver], solved.strength, best, listed, where)


def _as_words(decided):
  how = f"cross-validation in {decided.folds} folds" if decided.folds else "one validation split"
  return f"{how}, since {decided.reason}"
