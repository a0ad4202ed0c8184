"""Backbones that read pairs of texts: both in one sequence, or each by itself."""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import ops

from tl_app.backbones.backbone import Backbone
from tl_app.errors import UserError
from tl_app.preprocessing import text
from tl_app.preprocessing.base import Preprocess, PreprocessWrapper

SIDES = ("first", "second")


def read_pairs(backbone: Backbone, encoding: str) -> Backbone:
  """Returns the backbone that reads string [batch, 2] in place of string [batch]; weights and stages are shared.

  Args:
    backbone: a text `Backbone`.
    encoding: "cross_encoder": one sequence [CLS] first [SEP] second [SEP] with segment ids. "bi_encoder" or "auto": the
      network reads each text by itself, and the features are [u, v, |u - v|, u v] of its two outputs (Conneau et al.
      2017, InferSent). u and v are L2-normalised, so that the sum of u v is the cosine similarity; u v is multiplied by
      the square root of the width, since it would otherwise vary far less than the other parts.

  Raises:
    UserError: "cross_encoder", and its preprocessing cannot join two texts.
  """
  if encoding != "cross_encoder":
    return _bi_encoder(backbone)
  if not backbone.preprocess.can_join_pairs:
    raise UserError(
      f"--pair_encoding=cross_encoder: {backbone.spec.name} cannot join two texts; use --pair_encoding=bi_encoder"
    )
  return dataclasses.replace(backbone, preprocess=CrossEncoder(backbone.preprocess), pairs=True)


def _bi_encoder(backbone):
  network, inputs, outputs = backbone.network, {}, []
  for side in SIDES:
    of_side = {name: keras.Input(t.shape[1:], dtype=t.dtype, name=_key(side, name)) for name, t in _named(network)}
    outputs.append(network.call(of_side if isinstance(network.input, dict) else of_side[""])["features"])
    inputs |= {_key(side, name): tensor for name, tensor in of_side.items()}
  first, second = (ops.normalize(x, axis=-1) for x in outputs)
  product = backbone.feature_size**0.5 * first * second
  features = ops.concatenate([first, second, ops.abs(first - second), product], axis=-1)
  return dataclasses.replace(
    backbone,
    preprocess=BiEncoder(backbone.preprocess),
    network=keras.Model(inputs, {"features": features}, name="backbone"),
    feature_size=4 * backbone.feature_size,
    width=backbone.feature_size,
    pairs=True,
  )


def _named(network):
  return network.input.items() if isinstance(network.input, dict) else [("", network.input)]


def _key(side, name):
  return f"{side}_{name}" if name else side


def _both(inputs):
  """Returns {"first_..", "second_.."} of the inputs of each side, a tensor or a dict of tensors."""
  named = (of_side if isinstance(of_side, dict) else {"": of_side} for of_side in inputs)
  return {_key(side, name): tensor for side, tensors in zip(SIDES, named) for name, tensor in tensors.items()}


class _Pairs(PreprocessWrapper):
  """Preprocessing of string [batch, 2] by that of string [batch]."""

  def __init__(self, preprocess: Preprocess):
    super().__init__(preprocess, type(self).__name__)

  def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns the tokens of both texts without special tokens, ragged int32 [batch, (tokens)], of string [batch, 2]."""
    return tf.concat([self._preprocess.tokenize(texts[:, index]) for index in range(len(SIDES))], axis=1)

  def tokenize_column(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns the tokens of one of the texts, ragged int32 [batch, (tokens)], of string [batch]."""
    return self._preprocess.tokenize_column(texts)


class CrossEncoder(_Pairs):
  """One sequence of both texts; the longer text is truncated first."""

  def __call__(self, texts: tf.Tensor):
    """Returns the network's inputs, one sequence for each pair, of string [batch, 2]."""
    return self._preprocess.join(texts[:, 0], texts[:, 1])

  def arrange(self, columns: Sequence[tf.RaggedTensor]) -> dict[str, tf.Tensor]:
    """Returns the network's inputs, one sequence for each pair, for the tokens of both texts."""
    return self._preprocess.pack_pair(*columns)

  def count_tokens(self, texts: tf.Tensor) -> tf.Tensor:
    """Returns the number of tokens of each pair before truncation, special tokens included, int32 [batch]."""
    counts = self._preprocess.count_tokens(texts[:, 0]) + self._preprocess.count_tokens(texts[:, 1])
    return counts - text.SPECIAL + self._preprocess.separators_between


class BiEncoder(_Pairs):
  """Two sequences, one for each text."""

  def __call__(self, texts: tf.Tensor):
    """Returns {"first_..", "second_.."}: the network's inputs for both columns of string [batch, 2]."""
    return _both([self._preprocess(texts[:, index]) for index in range(len(SIDES))])

  def arrange(self, columns: Sequence[tf.RaggedTensor]) -> dict[str, tf.Tensor]:
    """Returns {"first_..", "second_.."}: the network's inputs for the tokens of both texts."""
    return _both([self._preprocess.arrange([tokens]) for tokens in columns])

  def count_tokens(self, texts: tf.Tensor) -> tf.Tensor:
    """Returns the number of tokens of the longer text of each pair, special tokens included, int32 [batch]."""
    return tf.maximum(self._preprocess.count_tokens(texts[:, 0]), self._preprocess.count_tokens(texts[:, 1]))
