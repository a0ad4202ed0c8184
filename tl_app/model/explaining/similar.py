"""Training examples that are similar to an input: the nearest ones in the features of the frozen backbone."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tl_app.data import modalities
from tl_app.data.examples import Examples
from tl_app.model.model import Model

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Similar:
  """Finds similar training examples.

  Attributes:
    model: the `Model` whose features are compared.
    examples: the training `Examples`.
    features: float32 [n, feature_size], their features, of length 1, see `unit`.
  """

  model: Model
  examples: Examples
  features: np.ndarray

  def nearest(self, row: Sequence[bytes], count: int) -> list[dict]:
    """Returns the `count` training examples with the highest cosine similarity to an input, the most similar first.

    Args:
      row: a UTF-8 text, or an encoded image; of a pair there are two.
      count: number of examples.

    Returns:
      Dicts with "id", "label", "similarity" in [-1, 1] and the preview, see `Modality.preview`.
    """
    raw = tf.constant([list(row) if len(row) > 1 else row[0]], tf.string)
    features = self.model.features(self.model.backbone.preprocess(raw), training=False)[0].numpy()
    similarities = self.features @ unit(features)
    best = np.argsort(-similarities, kind="stable")[:count]
    modality, taken = modalities.of(self.examples.modality), self.examples.take(best)
    return [
      {"id": str(id), "label": str(label), "similarity": round(float(similarity), 4), **modality.preview(values)}
      for id, label, similarity, values in zip(taken.ids, taken.labels, similarities[best], taken.inputs.rows())
    ]


def unit(vectors: np.ndarray) -> np.ndarray:
  """Returns vectors, float [.., width], divided by their lengths."""
  return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _TINY)
