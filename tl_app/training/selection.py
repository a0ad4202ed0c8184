"""The ladder: majority, neighbours, probe, fine-tuned, averaged, on one validation split. The best one ships."""

import dataclasses

import numpy as np
import sklearn
import sklearn.neighbors

from tl_app.report import formatting

NEIGHBOURS = 20
# Nearest neighbours are only a mark to compare with: a share of a large training set gives it.
NEIGHBOUR_EXAMPLES = 20000
# A larger p-value is said to leave open which of two rungs is better.
SIGNIFICANT = 0.05


@dataclasses.dataclass
class Rung:
  """One candidate.

  Attributes:
    name: "probe", "fine_tuned", "averaged".
    logits: float32 [validation examples, outputs].
    values: NumPy arrays of the variables that may differ between rungs, in a fixed order.
    phase: name of the last phase that has changed them.
  """

  name: str
  logits: np.ndarray
  values: list
  phase: str = ""


def better(rungs, targets, task):
  """Returns the rung of the highest score on the validation split, of equal ones the first; as `choose` compares."""
  return max(rungs, key=lambda rung: task.metrics.monitor_metrics(rung.logits, targets)[task.metrics.primary_metric])


def choose(rungs, targets, task):
  """Returns (the rung that ships, why, {name: figures}).

  The highest score on the validation split ships; at equal scores the simpler one, which comes first. Each is compared
  with the first by the task's test.

  Args:
    rungs: `Rung`s, from the simplest.
    targets: [validation examples, ..].
    task: the `Task`.
  """
  first = rungs[0]
  figures = {
    rung.name: task.metrics.monitor_metrics(rung.logits, targets)
    | {"p_value": task.metrics.p_value(first.logits, rung.logits, targets)}
    for rung in rungs
  }
  best = max(rungs, key=lambda rung: figures[rung.name][task.metrics.primary_metric])
  return best, _why(best, first, figures, task, len(targets)), figures


def _why(best, first, figures, task, count):
  score = {name: values[task.metrics.primary_metric] for name, values in figures.items()}
  if best is first:
    others = [name for name in score if name != first.name]
    if not others:
      return f"{best.name} (nothing else was trained)"
    beaten = max(others, key=score.get)
    return (
      f"{best.name}: fine-tuning did not help on the validation split "
      f"({formatting.candidate(beaten)} {score[beaten]:.4f}, {best.name} {score[best.name]:.4f})"
    )
  p = figures[best.name]["p_value"]
  doubt = f": {count} examples do not distinguish them" if p > SIGNIFICANT else ""
  return (
    f"{formatting.candidate(best.name)}: {score[best.name]:.4f} on the validation split, "
    f"{first.name} {score[first.name]:.4f} ({task.metrics.test_title} p = {p:.2g}{doubt})"
  )


def marks(features, targets, validation_features, validation_targets, task, by_example=lambda outputs: outputs):
  """Returns validation scores that need no training: of the constant baseline and of "nearest_neighbours".

  Args:
    features: float32 [n, width] of the training examples; targets: [n, ..].
    validation_features, validation_targets: likewise, the targets those of whole examples.
    by_example: function, outputs for the rows of `validation_features` -> those of the examples.
    task: the `Task`.
  """
  step = -(-len(targets) // NEIGHBOUR_EXAMPLES)
  dense = task.codec.as_probabilities(targets)
  neighbours = sklearn.neighbors.KNeighborsRegressor(
    min(NEIGHBOURS, len(targets[::step])), weights="distance", metric="cosine"
  ).fit(features[::step], dense[::step])
  constant = np.repeat(dense.mean(axis=0, keepdims=True), len(validation_features), axis=0)
  # By default scikit-learn holds a gigabyte of distances at once.
  with sklearn.config_context(working_memory=64):
    nearest = neighbours.predict(validation_features)
  return {
    task.metrics.baseline_name: task.metrics.score(by_example(constant), validation_targets),
    "nearest_neighbours": task.metrics.score(by_example(nearest), validation_targets),
  }
