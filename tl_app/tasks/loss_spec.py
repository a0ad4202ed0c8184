"""`LossSpec`: what training minimises."""

import abc
import dataclasses
import typing
from collections.abc import Callable

import numpy as np

from tl_app.tasks.label_codec import LabelCodec


@dataclasses.dataclass(frozen=True)
class LossSpec(abc.ABC):
  """What training minimises.

  Attributes:
    codec: the `LabelCodec` of the task.
    title: what the loss is, with its unit.
  """

  codec: LabelCodec

  title: typing.ClassVar[str] = ""

  def initial_bias(self, targets: np.ndarray) -> np.ndarray:
    """Returns the bias, float32 [outputs], from which a new head starts."""
    return np.zeros(len(self.codec.names), np.float32)

  @abc.abstractmethod
  def loss(self, label_smoothing: float) -> Callable:
    """Returns the loss for `compile`, a function of (targets, logits)."""

  def weighted_loss(self, label_smoothing: float, imbalance: str, targets: np.ndarray) -> Callable:
    """Returns the loss of --imbalance, a function of (targets, logits). Tasks without `Task.imbalances` have none.

    Args:
      label_smoothing: share of the target that is spread over the classes.
      imbalance: one of `Task.imbalances`.
      targets: of the training examples, whose classes are counted.
    """
    raise NotImplementedError(f"{type(self).__name__} has no loss for --imbalance={imbalance}")

  def keras_metrics(self) -> list:
    """Returns the Keras metrics that are computed on the training batches."""
    return []

  @abc.abstractmethod
  def mean_loss(self, logits: np.ndarray, targets: np.ndarray) -> float:
    """Returns the mean loss of logits, without label smoothing."""

  @abc.abstractmethod
  def probe_estimators(self, solver: str) -> list[tuple[float, typing.Any]]:
    """Returns [(strength, scikit-learn estimator)] of a probe solver, the most regularised first."""

  def baseline_estimator(self) -> typing.Any | None:
    """Returns a linear model of scikit-learn for sparse features, which need no network; None if there is none."""
    return None

  @abc.abstractmethod
  def probe_weights(self, estimator) -> tuple[np.ndarray, np.ndarray]:
    """Returns (kernel [features, outputs], bias [outputs]) of a fitted estimator."""
