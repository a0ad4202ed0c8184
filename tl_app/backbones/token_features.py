"""Backbones with features for each word of a text."""

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from tl_app.backbones.backbone import Backbone
from tl_app.errors import UserError
from tl_app.preprocessing import word_pieces


def read_words(backbone: Backbone) -> Backbone:
  """Returns the backbone with features per word; weights and stages are shared.

  Its "features", [batch, max_length, width], are those of the sequence at the first subword of each word, in the order
  of the words, then zeros. Its "mask", [batch, max_length], is 1 at each word.

  Args:
    backbone: a text `Backbone`.

  Raises:
    UserError: it has no "sequence", or its preprocessing has no vocabulary of its own.
  """
  sequence = backbone.network.output.get("sequence")
  if sequence is None or backbone.preprocess.special_tokens is None:
    raise UserError(
      f"--task=token_classification needs an output for each token, but {backbone.spec.name} gives one for a whole "
      "text: choose a BERT with sequence_output"
    )
  preprocess = word_pieces.SplitWords(backbone.preprocess)
  starts = keras.Input((None,), dtype="int32", name=word_pieces.STARTS)
  features, mask = FirstSubword(lambda: preprocess.max_length)(sequence, starts)
  width = int(sequence.shape[-1])
  return dataclasses.replace(
    backbone,
    preprocess=preprocess,
    network=keras.Model(
      {**backbone.network.input, word_pieces.STARTS: starts}, {"features": features, "mask": mask}, name="backbone"
    ),
    feature_size=width,
    width=width,
  )


class FirstSubword(keras.layers.Layer):
  """Moves the positions of the first subword of each word to the front of the sequence."""

  def __init__(self, positions: Callable[[], int]):
    """Creates the layer.

    Args:
      positions: function of no arguments -> number of positions of the output; called when the network is traced.
    """
    super().__init__(name="first_subword")
    self._positions = positions

  def call(self, sequence, starts):
    """Returns "features" and "mask" as in `read_words`, float32 [batch, positions, width] and [batch, positions].

    Args:
      sequence: float32 [batch, length, width].
      starts: int32 [batch, length], 1 at the first subword of each word.
    """
    order = tf.argsort(1 - starts, axis=1, stable=True)
    mask = tf.sort(starts, axis=1, direction="DESCENDING")
    padding = self._positions() - tf.shape(starts)[1]
    mask = tf.cast(tf.pad(mask, [[0, 0], [0, padding]]), sequence.dtype)
    features = tf.pad(tf.gather(sequence, order, batch_dims=1), [[0, 0], [0, padding], [0, 0]])
    return features * mask[..., None], mask

  def compute_output_spec(self, sequence, starts):
    """Returns the shapes and dtypes of the results of `call`."""
    batch = sequence.shape[0]
    return (
      keras.KerasTensor((batch, None, sequence.shape[-1]), sequence.dtype),
      keras.KerasTensor((batch, None), sequence.dtype),
    )
