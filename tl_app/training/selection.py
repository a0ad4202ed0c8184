"""Model selection: candidates are compared on the validation split, and the best one is selected."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import sklearn
import sklearn.neighbors

from tl_app.report import formatting

NEIGHBOURS = 20
# Largest number of training examples for the nearest neighbours, which are only a baseline.
NEIGHBOUR_EXAMPLES = 20000
# Largest p-value of a difference that is called significant.
SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A model that may be selected.

  Attributes:
    name: "probe", "fine_tuned", "averaged".
    logits: float32 [validation examples, outputs].
    values: NumPy arrays of the variables that may differ between candidates, in a fixed order.
    phase: name of the last phase that changed them.
  """

  name: str
  logits: np.ndarray
  values: list[np.ndarray]
  phase: str


@dataclasses.dataclass(frozen=True)
class Selection:
  """Which candidate was selected, and why.

  Attributes:
    best: the selected `Candidate`.
    reason: the candidate and why it was selected, as a sentence.
    metrics: {name of a candidate: its metrics on the validation split, and "p_value" of the comparison with the first
      candidate}.
  """

  best: Candidate
  reason: str
  metrics: dict[str, dict[str, float]]


def better(candidates: Sequence[Candidate], targets: np.ndarray, task) -> Candidate:
  """Returns the candidate with the highest primary metric, and the first one if several are equal.

  Args:
    candidates: the candidates.
    targets: [validation examples, ..].
    task: the `Task`.
  """
  return max(candidates, key=lambda candidate: task.metrics.score(candidate.logits, targets))


def select(candidates: Sequence[Candidate], targets: np.ndarray, task) -> Selection:
  """Selects the candidate with the highest primary metric, and the first one if several are equal.

  The paired test of the task compares each candidate with the first.

  Args:
    candidates: the candidates, the simplest one, the probe, first.
    targets: [validation examples, ..].
    task: the `Task`.
  """
  first = candidates[0]
  metrics = {
    candidate.name: task.metrics.monitor_metrics(candidate.logits, targets)
    | {"p_value": task.metrics.p_value(first.logits, candidate.logits, targets)}
    for candidate in candidates
  }
  best = max(candidates, key=lambda candidate: metrics[candidate.name][task.metrics.primary_metric])
  return Selection(best, _reason(best, first, metrics, task, len(targets)), metrics)


def _reason(best, first, metrics, task, count):
  score = {name: values[task.metrics.primary_metric] for name, values in metrics.items()}
  if best is first:
    others = [name for name in score if name != first.name]
    if not others:
      return f"{best.name} (nothing else was trained)"
    beaten = max(others, key=score.get)
    return (
      f"{best.name}: fine-tuning did not help on the validation split "
      f"({formatting.candidate(beaten)} {score[beaten]:.4f}, {best.name} {score[best.name]:.4f})"
    )
  p = metrics[best.name]["p_value"]
  doubt = f": {count} examples do not distinguish them" if p > SIGNIFICANT else ""
  return (
    f"{formatting.candidate(best.name)}: {score[best.name]:.4f} on the validation split, "
    f"{first.name} {score[first.name]:.4f} ({task.metrics.test_title} p = {p:.2g}{doubt})"
  )


def baseline_scores(
  features: np.ndarray,
  targets: np.ndarray,
  validation_features: np.ndarray,
  validation_targets: np.ndarray,
  task,
  by_example: Callable[[np.ndarray], np.ndarray] = lambda outputs: outputs,
) -> dict[str, float]:
  """Returns the primary metric on the validation split of two baselines that need no training.

  These are the constant baseline (majority class or mean) and "nearest_neighbours", the nearest training examples.

  Args:
    features: float32 [n, width], feature rows of the training split.
    targets: [n, ..], their targets.
    validation_features: float32 [m, width], feature rows of the validation split.
    validation_targets: [validation examples, ..], targets of the examples.
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
    task.metrics.baseline_name: task.metrics.score(by_example(constant), validation_targets),
    "nearest_neighbours": task.metrics.score(by_example(nearest), validation_targets),
  }
