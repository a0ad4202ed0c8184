"""The ladder: majority, neighbours, probe, fine-tuned, averaged, on one validation split. The best one ships."""

import dataclasses

import numpy as np
import scipy.stats
import sklearn
import sklearn.neighbors

from tl_app import evaluation

NEIGHBOURS = 20
# Nearest neighbours are only a mark to compare with: a share of a large training set gives it.
NEIGHBOUR_EXAMPLES = 20000


@dataclasses.dataclass
class Rung:
  """One candidate.

  Attributes:
    name: "probe", "fine_tuned", "averaged".
    logits: float32 [validation examples, classes].
    values: NumPy arrays of the variables that may differ between rungs, in a fixed order.
  """

  name: str
  logits: np.ndarray
  values: list


def choose(rungs, labels):
  """Returns (the rung that ships, why, {name: figures}).

  The highest validation accuracy ships; at equal accuracy the simpler one, which comes first. Each is compared with the
  first by McNemar's exact test on the validation examples that only one of the two gets right.

  Args:
    rungs: `Rung`s, from the simplest.
    labels: int [validation examples].
  """
  first = rungs[0]
  figures = {}
  for rung in rungs:
    right = rung.logits.argmax(axis=1) == labels
    figures[rung.name] = {
      "accuracy": float(right.mean()),
      "loss": evaluation.cross_entropy(rung.logits, labels),
      "p_value": mcnemar(first.logits.argmax(axis=1) == labels, right),
    }
  best = max(rungs, key=lambda rung: figures[rung.name]["accuracy"])
  return best, _why(best, first, figures), figures


def _why(best, first, figures):
  accuracy = figures[best.name]["accuracy"]
  if best is first:
    others = [name for name in figures if name != first.name]
    if not others:
      return f"{best.name} is the only rung"
    beaten = max(others, key=lambda name: figures[name]["accuracy"])
    return (
      f"{best.name} ships: fine-tuning did not help on the validation split "
      f"({beaten} {figures[beaten]['accuracy']:.4f}, {best.name} {accuracy:.4f})"
    )
  return (
    f"{best.name} ships: {accuracy:.4f} on the validation split against {figures[first.name]['accuracy']:.4f} of the "
    f"{first.name} (McNemar p = {figures[best.name]['p_value']:.2g})"
  )


def mcnemar(right, other_right):
  """Returns the p-value of McNemar's exact two-sided test; bool [n] each: which examples the two models get right."""
  only_first, only_second = int(np.sum(right & ~other_right)), int(np.sum(~right & other_right))
  if only_first + only_second == 0:
    return 1.0
  return float(scipy.stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def marks(features, labels, validation_features, validation_labels):
  """Returns {"majority", "neighbours"}: validation accuracies that need no training.

  Args:
    features: float32 [n, width] of the training examples; labels: int [n].
    validation_features, validation_labels: likewise.
  """
  step = -(-len(labels) // NEIGHBOUR_EXAMPLES)
  neighbours = sklearn.neighbors.KNeighborsClassifier(
    min(NEIGHBOURS, len(labels[::step])), weights="distance", metric="cosine"
  ).fit(features[::step], labels[::step])
  # By default scikit-learn holds a gigabyte of distances at once.
  with sklearn.config_context(working_memory=64):
    score = float(neighbours.score(validation_features, validation_labels))
  return {"majority": evaluation.majority_accuracy(labels, validation_labels), "neighbours": score}
