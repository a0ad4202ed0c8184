"""`LabelCodec`: label cells to targets."""

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np

from tl_app.config.groups import AnswerConfig, DataConfig
from tl_app.errors.counts import number_of

# Values of `LabelCodec.accept_by`.
PROBABILITY, OOD_SCORE, COST = "probability", "ood_score", "cost"


@dataclasses.dataclass(frozen=True)
class LabelCodec(abc.ABC):
  """Reads label cells, the text that a reader gives for the label of an example.

  Its fields are all that a task learns; each is a JSON value or a tuple.

  Attributes:
    names: names of the outputs, in the order of the logits. Empty before `fit`.
    accept_by: what decides whether an answer is accepted: `PROBABILITY`, `OOD_SCORE` or `COST`; "": all are accepted.
    accept_threshold: least probability, or highest score, of an accepted answer.
  """

  names: tuple = ()
  accept_by: str = ""
  accept_threshold: float = 0.0

  def configure(self, config: DataConfig, labels: Sequence[str]) -> "LabelCodec":
    """Returns the codec for the form of the cells.

    Args:
      config: the `DataConfig` of the run.
      labels: all label cells, str [n].

    Raises:
      UserError: a flag does not fit the task.
    """
    return self

  def input_error(self, examples) -> str:
    """Returns why the inputs of `Examples` do not fit their labels, or ""."""
    return ""

  @abc.abstractmethod
  def classes(self, labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the classes of each label cell, by which splits are stratified; () is a class too.

    Raises:
      UserError: the task cannot read a cell.
    """

  @abc.abstractmethod
  def fit(self, labels: Sequence[str]) -> "LabelCodec":
    """Returns the codec that has learned `names` and its other fields from the training labels, str [n]."""

  def decide(self, config: AnswerConfig) -> "LabelCodec":
    """Returns the fitted codec with what --costs and --min_precision say of its classes.

    Raises:
      UserError: they name other classes, or the file of --costs cannot be read.
    """
    return self

  @abc.abstractmethod
  def targets(self, labels: Sequence[str]) -> np.ndarray:
    """Returns the targets of label cells, str [n]: an array whose first axis is n.

    Raises:
      UserError: a label is unknown.
    """

  @abc.abstractmethod
  def as_probabilities(self, targets: np.ndarray) -> np.ndarray:
    """Returns the targets as the outputs of a perfect model, float32 [n, outputs]."""

  def calibrate(self, logits: np.ndarray, targets: np.ndarray, config: AnswerConfig) -> "LabelCodec":
    """Returns the codec with what is learned from the validation split.

    These are the calibration of the probabilities, the decision thresholds, and the rule of prediction sets or
    intervals. Calibration changes no label.

    Args:
      logits: of the selected model, float [n, outputs].
      targets: of the validation split.
      config: the `AnswerConfig` of the run.
    """
    return self

  def calibrated(self, logits):
    """Returns the logits, NumPy array or tensor [n, outputs], whose probabilities are calibrated."""
    return logits

  def describe(self) -> str:
    """Returns the beginning of a line about the data, like "3 classes"."""
    return number_of(len(self.names), "class", "classes")
