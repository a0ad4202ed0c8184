"""Backbones that give features for each word of a text."""

import dataclasses

import keras
import tensorflow as tf

from tl_app.errors import UserError
from tl_app.preprocessing import word_pieces


def read_words(backbone):
  """Returns the `Backbone` whose "features" is [batch, max_length, width]: what its sequence has at each word's first
  piece, the words of a text first, then zeros. "mask", [batch, max_length], is 1 where there is a word. Weights and
  stages are shared.

  Args:
    backbone: a text `Backbone`.

  Raises:
    UserError: it gives no sequence, or its vocabulary is out of reach.
  """
  sequence = backbone.network.output.get("sequence")
  if sequence is None or backbone.preprocess.special_tokens is None:
    raise UserError(
      f"--task=token_classification needs an output for each token, but {backbone.spec.name} gives one for a whole "
      "text: choose a BERT with sequence_output"
    )
  preprocess = word_pieces.Words(backbone.preprocess)
  starts = keras.Input((None,), dtype="int32", name=word_pieces.STARTS)
  pooled, present = FirstPieces(lambda: preprocess.max_length)(sequence, starts)
  width = int(sequence.shape[-1])
  return dataclasses.replace(
    backbone,
    preprocess=preprocess,
    network=keras.Model(
      {**backbone.network.input, word_pieces.STARTS: starts}, {"features": pooled, "mask": present}, name="backbone"
    ),
    feature_size=width,
    width=width,
  )


class FirstPieces(keras.layers.Layer):
  """(sequence [batch, length, width], starts [batch, length]) to `read_words`' "features" and "mask", float32."""

  def __init__(self, positions):
    """Args:
    positions: function of no arguments -> their number; called when the network is traced.
    """
    super().__init__(name="first_pieces")
    self._positions = positions

  def call(self, sequence, starts):
    """Returns ([batch, positions, width], [batch, positions])."""
    order = tf.argsort(1 - starts, axis=1, stable=True)
    present = tf.sort(starts, axis=1, direction="DESCENDING")
    lack = self._positions() - tf.shape(starts)[1]
    present = tf.cast(tf.pad(present, [[0, 0], [0, lack]]), sequence.dtype)
    features = tf.pad(tf.gather(sequence, order, batch_dims=1), [[0, 0], [0, lack], [0, 0]])
    return features * present[..., None], present

  def compute_output_spec(self, sequence, starts):
    """Returns the shapes and dtypes of `call`'s results."""
    batch = sequence.shape[0]
    return (
      keras.KerasTensor((batch, None, sequence.shape[-1]), sequence.dtype),
      keras.KerasTensor((batch, None), sequence.dtype),
    )
