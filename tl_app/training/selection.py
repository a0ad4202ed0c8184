"""Model selection: candidates are compared on the validation split, and the best one is selected."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import sklearn
import sklearn.neighbors

from tl_app.config import AUTO
from tl_app.data.training_data import TrainingData
from tl_app.errors import RunFailed
from tl_app.errors.counts import number_of
from tl_app.features.frozen import Features
from tl_app.recipes.phase import Phase
from tl_app.report import formatting, slices
from tl_app.tasks import statistics
from tl_app.training.answered import Answered

log = logging.getLogger(__name__)

NEIGHBOURS = 20
# Largest number of training examples for the nearest neighbours, which are only a baseline.
NEIGHBOUR_EXAMPLES = 20000
# Largest p-value of a difference that is called significant.
SIGNIFICANT = 0.05
# Largest p-value of the paired test with which a fine-tuned candidate is selected before the probe. It is the
# one-standard-error rule (Breiman et al. 1984): a normal variable is further than one standard error from its mean with
# this probability. The smaller validation splits are, the more often the better score of a candidate is chance.
ONE_STANDARD_ERROR = 0.32
# Shares of the fine-tuned weights that the preset `best` tries, see --interpolate.
BEST_SHARES = "0.25,0.5,0.75"
# Name of the candidate of --adapt.
ADAPTED = "adapted"
# Candidates that differ from the pretrained network in the head alone.
HEADS = ("probe", ADAPTED)


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A model that may be selected.

  Attributes:
    name: "probe", "fine_tuned", "averaged", "soup", "interpolated", "adapted".
    logits: float32 [validation examples, outputs], or the held-out answers of cross-validation.
    values: NumPy arrays of the variables that may differ between candidates, in a fixed order; [] for a candidate that
      lost in cross-validation, of which there is no model.
    phase: name of the last phase that changed them.
    rows: rows of the examples of `logits`; None for those of the validation split.
    estimate: where `logits` come from: {"estimate": "validation_split"}, or "cross_validation" and "folds".
  """

  name: str
  logits: np.ndarray
  values: list[np.ndarray]
  phase: str
  rows: np.ndarray | None = None
  estimate: dict = dataclasses.field(default_factory=lambda: {"estimate": "validation_split"})

  def answered(self, data: TrainingData) -> Answered:
    """Returns what the model answered on the examples of `logits`, which it has not learnt from."""
    rows = data.validation if self.rows is None else self.rows
    return Answered(self.logits, data.targets[rows], rows, self.estimate)

  @property
  def measured(self) -> str:
    """Where `logits` come from, in words."""
    return formatting.measured(self.estimate)


@dataclasses.dataclass(frozen=True)
class Selection:
  """Which candidate was selected, and why.

  Attributes:
    best: the selected `Candidate`.
    reason: the candidate and why it was selected, as a sentence.
    metrics: {name of a candidate: its metrics on the validation split, and "p_value" of the comparison with the first
      candidate}.
    baselines: see `compared_with_baselines`.
  """

  best: Candidate
  reason: str
  metrics: dict[str, dict[str, float]]
  baselines: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


def finite(name: str, logits: np.ndarray) -> np.ndarray:
  """Returns the logits of a candidate.

  Raises:
    RunFailed: one is NaN or infinite.
  """
  if not np.isfinite(logits).all():
    raise RunFailed(f"{name}: the logits of the validation split are not finite: lower --learning_rate")
  return logits


def better(candidates: Sequence[Candidate], targets: np.ndarray, task) -> Candidate:
  """Returns the candidate with the highest primary metric, and the first one if several are equal.

  Args:
    candidates: the candidates.
    targets: [validation examples, ..].
    task: the `Task`.
  """
  return max(candidates, key=lambda candidate: task.metrics.score(candidate.logits, targets))


def of_run(candidates: Sequence[Candidate], features: Features, config) -> Selection:
  """Returns the `Selection` of --select and --select_metric, see `select`.

  Args:
    candidates: the candidates, with answers for the same examples, the probe first.
    features: the `Features` of the run.
    config: the `Config`.
  """
  data = features.data
  answered = candidates[0].answered(data)
  groups = slices.of_user(data.examples.take(answered.rows)) if config.select_metric == "worst_group" else []
  if groups and slices.worst_group(groups, lambda mask: 0.0) is None:
    # The folds that were run may hold out few examples of each group.
    log.warning(
      "--select_metric=worst_group: each group has too few of the %s examples %s, so the primary metric decides",
      *(f"{len(answered.rows):,}", candidates[0].measured),
    )
    groups = []
  return select(candidates, answered.targets, features.model.task, config.select, groups)


def select(
  candidates: Sequence[Candidate],
  targets: np.ndarray,
  task,
  wanted: str = AUTO,
  groups: Sequence[slices.SliceColumn] = (),
) -> Selection:
  """Selects the candidate with the highest primary metric, and the first one if several are equal.

  The paired test of the task compares each candidate with the first. A candidate that is better than the first by less
  than one standard error, see `ONE_STANDARD_ERROR`, is not selected; see `_lower_loss`.

  Args:
    candidates: the candidates, the simplest one, the probe, first.
    targets: [validation examples, ..].
    task: the `Task`.
    wanted: name of the candidate to select whatever its metric is, or "auto". If there is no such candidate, "auto".
    groups: divisions of the validation examples; with any the primary metric of the worst group decides.
  """
  first = candidates[0]
  metrics = {
    candidate.name: task.metrics.monitor_metrics(candidate.logits, targets)
    | {"p_value": task.metrics.p_value(first.logits, candidate.logits, targets)}
    for candidate in candidates
  }
  by_name = {candidate.name: candidate for candidate in candidates}
  if wanted in by_name:
    scores = ", ".join(f"{name} {values[task.metrics.primary_metric]:.4f}" for name, values in metrics.items())
    reason = f"{formatting.candidate(wanted)}: by --select={wanted} ({first.measured}: {scores})"
    return Selection(by_name[wanted], reason, metrics)
  if ADAPTED in by_name:
    return _adapted_or_first(by_name[ADAPTED], first, metrics, task)
  if groups:
    return _best_worst_group(candidates, targets, task, metrics, groups)
  metric = task.metrics.primary_metric
  able, by_loss = [first], {}
  for candidate in candidates[1:]:
    gain = metrics[candidate.name][metric] - metrics[first.name][metric]
    if gain > 0 and metrics[candidate.name]["p_value"] <= ONE_STANDARD_ERROR:
      able.append(candidate)
    elif gain >= 0 and (lower := _lower_loss(candidate, first, targets, task)):
      able.append(candidate)
      by_loss[candidate.name] = lower
  best = max(able, key=lambda candidate: (metrics[candidate.name][metric], candidate is not first))
  reason = _reason(best, first, metrics, task, len(targets), by_loss.get(best.name, ""))
  return Selection(best, reason, metrics)


def _lower_loss(candidate, first, targets, task):
  """Returns that the calibrated loss of a candidate is lower than that of the first by one standard error, or "".

  It may decide in cross-validation: the few held-out examples that only one of two models answers right say less than
  how sure they are of all. On a validation split the loss has chosen the epoch, so it says too much there.
  """
  compared = (
    task.metrics.compare_losses(first.logits, candidate.logits, targets) if candidate.rows is not None else None
  )
  if compared is None or compared[0] <= 0 or compared[1] > ONE_STANDARD_ERROR:
    return ""
  return f"its calibrated loss is lower by {compared[0]:.2g}, randomisation test p = {compared[1]:.2g}"


def _best_worst_group(candidates, targets, task, metrics, groups):
  """Returns the `Selection` of the candidate that is best in its worst group, and adds this score to `metrics`."""

  def worst_of(logits):
    return slices.worst_group(groups, lambda mask: task.metrics.score(logits[mask], targets[mask]))

  worst = {candidate.name: worst_of(candidate.logits) for candidate in candidates}
  for name, (_, score) in worst.items():
    metrics[name]["worst_group"] = score
  best = max(candidates, key=lambda candidate: worst[candidate.name][1])
  told = [
    f"{formatting.candidate(name)} {score:.4f} ({group})"
    for name, (group, score) in sorted(worst.items(), key=lambda item: item[0] != best.name)
  ]
  where = "in cross-validation" if best.rows is not None else "of the validation split"
  reason = f"the best {task.metrics.primary_title} in the worst group {where}: {', '.join(told)}"
  return Selection(best, f"{formatting.candidate(best.name)}: {reason}", metrics)


def shares(config, phases: Sequence[Phase]) -> list[float]:
  """Returns the shares of the fine-tuned weights of the candidates of --interpolate.

  Args:
    config: the `Config`.
    phases: the phases of the `Plan`; weights of a new head have nothing between them and those of the probe.
  """
  named = (BEST_SHARES if config.preset == "best" else "none") if config.interpolate == AUTO else config.interpolate
  if named == "none" or any(phase.trains.reset_head for phase in phases):
    return []
  return [float(share) for share in named.split(",")]


def cannot_win(probe: Candidate, phase: Phase, features: Features, config) -> str:
  """Returns why the fine-tuning that --preset chose cannot be selected, or "".

  One standard error of `select` is a number of examples that only the fine-tuned model gets right; a probe with fewer
  errors cannot be beaten by as many. In cross-validation a lower loss is enough, see `_lower_loss`, unless the probe
  makes no error.

  Args:
    probe: the `Candidate`, with its answers for the validation split or those of cross-validation.
    phase: a `Phase` after the probe.
    features: the `Features` of the run.
    config: the `Config`. What it asks for is done: only the default recipe is skipped.
  """
  data, metrics = features.data, features.model.task.metrics
  chosen = config.recipe == AUTO and config.select == AUTO and config.select_metric == "primary" and not config.epochs
  if not (chosen and phase.trains_backbone and metrics.counts_right_answers and features.model.backbone.pretrained):
    return ""
  count = len(probe.logits)
  errors = round((1 - metrics.score(probe.logits, probe.answered(data).targets)) * count)
  needed = round((statistics.least_difference(1000, ONE_STANDARD_ERROR) or 1) * 1000) if probe.rows is None else 1
  if errors >= needed:
    return ""
  gain = f", and fine-tuning would have to gain {needed} to be selected" if errors else ""
  return (
    f"the probe answers {errors} of {count:,} examples wrong {probe.measured}{gain}; --recipe=lp_ft trains it, a "
    "larger --validation_fraction can show smaller gains"
  )


def plain_baseline(features: tuple, targets: np.ndarray, task) -> np.ndarray | None:
  """Returns the outputs for the validation split of a linear model on features that need no network, or None.

  Args:
    features: (of the training split, of the validation split), see `Modality.plain_features`.
    targets: [n, ..], of the training split.
    task: the `Task`.
  """
  estimator = task.loss.baseline_estimator()
  if estimator is None:
    return None
  train, validation = features
  step = -(-train.shape[0] // NEIGHBOUR_EXAMPLES)
  kernel, bias = task.loss.probe_weights(estimator.fit(train[::step], targets[::step]))
  if kernel.shape[1] != len(task.names):
    # A rare class is not among the examples that were taken.
    return None
  return np.asarray(validation @ kernel + bias)


def _adapted_or_first(adapted, first, metrics, task):
  """Returns the `Selection` of the adapted candidate, unless it is clearly worse than the first one on the source.

  The validation split is of the source: the target has no labels on which the two could be compared.
  """
  score = {name: values[task.metrics.primary_metric] for name, values in metrics.items()}
  worse = score[ADAPTED] < score[first.name] and metrics[ADAPTED]["p_value"] <= SIGNIFICANT
  compared = (
    f"on the validation split of the source {ADAPTED} {score[ADAPTED]:.4f}, {first.name} {score[first.name]:.4f}"
  )
  if worse:
    return Selection(first, f"{first.name}: the adaptation lost too much; {compared}", metrics)
  return Selection(adapted, f"{ADAPTED}: the target has no labels to compare on; {compared}", metrics)


def _doubt(p_value, task, count):
  """Returns what `count` examples cannot show of a difference with this p-value, or ""."""
  if p_value <= SIGNIFICANT:
    return ""
  if not task.metrics.counts_right_answers:
    return f"the difference is not significant on {number_of(count, 'example')}"
  least = statistics.least_difference(count, SIGNIFICANT)
  examples = number_of(count, "example")
  return f"{examples} cannot show {'any difference' if least is None else f'a difference below {least:.2g}'}"


def _reason(best, first, metrics, task, count, by_loss):
  score = {name: values[task.metrics.primary_metric] for name, values in metrics.items()}
  if best is first:
    others = [name for name in score if name != first.name]
    if not others:
      return f"{best.name} (nothing else was trained)"
    beaten = max(others, key=score.get)
    if score[beaten] > score[first.name]:
      return (
        f"{first.name}: {formatting.candidate(beaten)} has {score[beaten]:.4f} {first.measured} and "
        f"{first.name} {score[first.name]:.4f}, which is less than one standard error ({task.metrics.test_title} p = "
        f"{metrics[beaten]['p_value']:.2g})"
      )
    doubt = _doubt(metrics[beaten]["p_value"], task, count)
    return (
      f"{best.name}: fine-tuning did not help {first.measured} "
      f"({formatting.candidate(beaten)} {score[beaten]:.4f}, {best.name} {score[best.name]:.4f}{doubt and '; '}{doubt})"
    )
  p = metrics[best.name]["p_value"]
  doubt = _doubt(p, task, count)
  compared = f"{task.metrics.test_title} p = {p:.2g}{doubt and ': '}{doubt}{by_loss and '; '}{by_loss}"
  return (
    f"{formatting.candidate(best.name)}: {score[best.name]:.4f} {first.measured}, "
    f"{first.name} {score[first.name]:.4f} ({compared})"
  )


def compared_with_baselines(
  selected: Candidate, baselines: Mapping[str, np.ndarray], targets: np.ndarray, task
) -> dict[str, dict[str, float]]:
  """Returns {name of a baseline: its primary metric, and "p_value" of the comparison with the selected candidate}.

  Args:
    selected: the `Candidate`.
    baselines: {name: outputs, float [validation examples, ..]}.
    targets: [validation examples, ..].
    task: the `Task`.
  """
  return {
    name: {
      task.metrics.primary_metric: task.metrics.score(outputs, targets),
      "p_value": task.metrics.p_value(selected.logits, outputs, targets),
    }
    for name, outputs in baselines.items()
  }


def baselines(
  features: np.ndarray,
  targets: np.ndarray,
  validation_features: np.ndarray,
  task,
  by_example: Callable[[np.ndarray], np.ndarray] = lambda outputs: outputs,
) -> dict[str, np.ndarray]:
  """Returns the outputs for the validation split of two baselines that need no training.

  These are the constant baseline (majority class or mean) and "nearest_neighbours", the nearest training examples.

  Args:
    features: float32 [n, width], feature rows of the training split.
    targets: [n, ..], their targets.
    validation_features: float32 [m, width], feature rows of the validation split.
    task: the `Task`.
    by_example: function from outputs for the rows of `validation_features` to outputs for the examples.
  """
  step = -(-len(targets) // NEIGHBOUR_EXAMPLES)
  probabilities = task.codec.as_probabilities(targets)
  neighbours = sklearn.neighbors.KNeighborsRegressor(
    min(NEIGHBOURS, len(targets[::step])), weights="distance", metric="cosine"
  ).fit(features[::step], probabilities[::step])
  constant = np.repeat(probabilities.mean(axis=0, keepdims=True), len(validation_features), axis=0)
  # By default scikit-learn computes up to a gigabyte of distances at once.
  with sklearn.config_context(working_memory=64):
    nearest = neighbours.predict(validation_features)
  return {
    task.metrics.baseline_name: by_example(constant),
    "nearest_neighbours": by_example(nearest),
  }
