"""`BatchPredictor`: `predict` of a network whose batches are computed one after the other."""

import abc
import typing
from collections.abc import Sequence

import numpy as np

if typing.TYPE_CHECKING:
  import tensorflow as tf


class BatchPredictor(abc.ABC):
  """Predicts a data set with what predicts one batch, as `keras.Model.predict` does."""

  @abc.abstractmethod
  def predict_on_batch(self, batch: typing.Any) -> np.ndarray:
    """Returns the outputs, float32 [batch, ..], for one batch of the network's inputs."""

  def predict(self, dataset: "tf.data.Dataset", verbose: int = 0, callbacks: Sequence = ()) -> np.ndarray:
    """Returns the outputs, float32 [n, ..], for a dataset of batches of the network's inputs."""
    outputs = []
    for index, batch in enumerate(dataset):
      outputs.append(self.predict_on_batch(batch))
      for callback in callbacks:
        callback.on_predict_batch_end(index, {"outputs": outputs[-1]})
    return np.concatenate(outputs)
