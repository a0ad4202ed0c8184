"""`Answered`: what a model answered on which examples."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Answered:
  """What a model answered on which examples, for all that is learnt from these answers or measured by them.

  Attributes:
    logits: float32 [n, outputs], before calibration.
    targets: of the examples, [n, ..].
    rows: their rows in the `TrainingData`, int [n].
    estimate: where the answers come from: {"estimate": "validation_split"}, or "cross_validation" and "folds"; {} for
      the test split.
    ood_scores: out-of-distribution scores, float64 [n], of a model that has them, or None.
  """

  logits: np.ndarray
  targets: np.ndarray
  rows: np.ndarray
  estimate: dict = dataclasses.field(default_factory=dict)
  ood_scores: np.ndarray | None = None

  def take(self, chosen: np.ndarray) -> "Answered":
    """Returns the answers on some of the examples, a mask or positions."""
    scores = None if self.ood_scores is None else self.ood_scores[chosen]
    return Answered(self.logits[chosen], self.targets[chosen], self.rows[chosen], self.estimate, scores)
