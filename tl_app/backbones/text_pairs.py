"""Backbones that read pairs of texts: one sequence of both, or each by itself."""

import dataclasses

import keras
import tensorflow as tf
from keras import ops

from tl_app.errors import UserError
from tl_app.preprocessing import text
from tl_app.preprocessing.base import PreprocessWrapper

SIDES = ("first", "second")


def read_pairs(backbone, encoding):
  """Returns the `Backbone` that reads string [batch, 2] in place of string [batch]; weights and stages are shared.

  Args:
    backbone: a text `Backbone`.
    encoding: "cross_encoder": one sequence [CLS] first [SEP] second [SEP] with segment ids. "bi_encoder": the
      network reads each text by itself, and the features are [u, v, |u - v|, u v] of its two outputs (Conneau et al.
      2017, InferSent). u and v are L2-normalised, so that the sum of u v is the cosine similarity; u v is multiplied by
      the square root of the width, since it would otherwise vary far less than the other parts.

  Raises:
    UserError: its preprocessing cannot join two texts.
  """
  if encoding == "bi_encoder":
    return _apart(backbone)
  if not backbone.preprocess.can_join_pairs:
    raise UserError(
      f"--pair_encoding=cross_encoder: {backbone.spec.name} cannot join two texts; use --pair_encoding=bi_encoder"
    )
  return dataclasses.replace(backbone, preprocess=Together(backbone.preprocess), pairs=True)


def _apart(backbone):
  inputs, pooled = {}, []
  for side in SIDES:
    own = {name: keras.Input(t.shape[1:], dtype=t.dtype, name=_key(side, name)) for name, t in _named(backbone.network)}
    pooled.append(backbone.network.call(own if isinstance(backbone.network.input, dict) else own[""])["features"])
    inputs |= {_key(side, name): tensor for name, tensor in own.items()}
  first, second = (ops.normalize(x, axis=-1) for x in pooled)
  product = backbone.feature_size**0.5 * first * second
  features = ops.concatenate([first, second, ops.abs(first - second), product], axis=-1)
  return dataclasses.replace(
    backbone,
    preprocess=Apart(backbone.preprocess),
    network=keras.Model(inputs, {"features": features}, name="backbone"),
    feature_size=4 * backbone.feature_size,
    width=backbone.feature_size,
    pairs=True,
  )


def _named(network):
  return network.input.items() if isinstance(network.input, dict) else [("", network.input)]


def _key(side, name):
  return f"{side}_{name}" if name else side


class _Pairs(PreprocessWrapper):
  """Preprocessing of string [batch, 2] by that of string [batch]."""

  def __init__(self, preprocess):
    super().__init__(preprocess, type(self).__name__)

  def tokenize(self, texts):
    """Returns ragged int32 [batch, (tokens)], those of both texts of string [batch, 2], without special tokens."""
    return tf.concat([self._preprocess.tokenize(texts[:, index]) for index in range(len(SIDES))], axis=1)


class Together(_Pairs):
  """One sequence of both texts; the longer one is cut first."""

  def __call__(self, texts):
    """Returns the network's inputs, one sequence for each row of string [batch, 2]."""
    return self._preprocess.join(texts[:, 0], texts[:, 1])

  def count_tokens(self, texts):
    """Returns int32 [batch]: tokens of both texts of string [batch, 2], special ones included, nothing cut."""
    counts = self._preprocess.count_tokens(texts[:, 0]) + self._preprocess.count_tokens(texts[:, 1])
    return counts - text.SPECIAL + self._preprocess.separators_between


class Apart(_Pairs):
  """Two sequences, one for each text."""

  def __call__(self, texts):
    """Returns {"first_..", "second_.."}: the network's inputs of both columns of string [batch, 2]."""
    inputs = {}
    for index, side in enumerate(SIDES):
      own = self._preprocess(texts[:, index])
      inputs |= {_key(side, name): tensor for name, tensor in (own if isinstance(own, dict) else {"": own}).items()}
    return inputs

  def count_tokens(self, texts):
    """Returns int32 [batch]: tokens of the longer text of each row of string [batch, 2]."""
    return tf.maximum(self._preprocess.count_tokens(texts[:, 0]), self._preprocess.count_tokens(texts[:, 1]))
