"""Masked tokens (Devlin et al. 2019, BERT): the network predicts tokens of a text that it cannot see."""

import math
import typing
from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones.bert import gelu
from tl_app.compute import across_devices
from tl_app.model import graphs
from tl_app.recipes.phase import MaskedTokens
from tl_app.training.pretraining.objective import PretrainingObjective

# Of the tokens to predict, the share that is replaced by the mask token, and by any token; the rest stays.
MASKED, REPLACED = 0.8, 0.1
# Its exponential is still a number in float32, in which TensorBoard stores the perplexity.
LARGEST_LOSS = 80.0
# Input with the positions to predict, and the target at a position that only fills up.
POSITIONS, NOTHING = "masked_positions", -1


class MaskedTokensObjective(PretrainingObjective):
  """Predicts masked tokens. Only masked positions are decoded, by the table of token embeddings itself."""

  # On 715 questions of banking77 the held-out loss of MiniLM's new head was 4.67 after 276 steps, 4.34 after 621.
  warm_up_steps = 300
  metrics: typing.ClassVar[dict[str, str]] = {"loss": "loss", "perplexity": "perplexity", "accuracy": "accuracy"}

  def settings(self, config):
    return MaskedTokens(config.mask_share, config.whole_words)

  def problem(self, backbone, config):
    name, preprocess = backbone.spec.name, backbone.preprocess
    reason = ""
    if backbone.modality != "text":
      reason = f"reads {backbone.modality}s, which have no tokens"
    elif not preprocess.limit:
      reason = "takes strings and hides their tokens"
    elif "sequence" not in backbone.network.output:
      reason = "has no output for each token"
    elif preprocess.mask_token < 0:
      reason = "has no mask token in its vocabulary, or its preprocessing does not tell it"
    elif backbone.token_table is None:
      reason = "has no table of token embeddings as wide as its outputs"
    if reason:
      return f"--objective=masked_tokens: {name} {reason}: choose another backbone or objective"
    if config.whole_words and preprocess.word_starts is None:
      return f"--whole_words: the vocabulary of {name} does not tell where a word begins: remove the flag"
    return ""

  def head(self, backbone, settings):
    width = backbone.network.output["sequence"].shape[-1]
    states = keras.Input((None, width), name="states")
    x = keras.layers.Dense(width, name="transform")(states)
    x = keras.layers.LayerNormalization(epsilon=1e-12, name="transform_norm")(gelu(x))
    return keras.Model(states, TiedDecoder(backbone.token_table, name="decoder")(x), name="head")

  def network(self, model, phase):
    positions = keras.Input((None,), dtype="int32", name=POSITIONS)
    states = graphs.backbone_outputs(model, phase)["sequence"]
    inputs = {**model.backbone.network.input, POSITIONS: positions}
    return keras.Model(inputs, model.head(AtPositions(name="at_positions")(states, positions)), name="masked_tokens")

  def example(self, model, phase, seed, prepared=None, held_out=False):
    preprocess, settings = model.backbone.preprocess, phase.objective
    starts = tf.constant(preprocess.word_starts) if settings.whole_words else None
    vocabulary = preprocess.vocabulary_size or model.backbone.token_table.shape[0]

    def make(raw, rows, number):
      inputs = preprocess(raw)
      seeds = tf.stack([tf.constant(seed, tf.int64), number])
      return mask(inputs, settings.mask_share, (preprocess.mask_token, vocabulary), seeds, starts)

    return make

  def loss(self, phase):
    return MaskedTokenLoss()

  def measure(self, network, phase):
    @tf.function(reduce_retracing=True)
    def sums(inputs, labels):
      logits = network(inputs, training=False)
      losses, given = token_losses(labels, logits)
      right = tf.cast(tf.argmax(logits, -1, tf.int32) == labels, losses.dtype)
      return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(right * given), tf.reduce_sum(given)])

    return token_metrics(sums)

  def description(self, phase):
    whole = ", whole words" if phase.objective.whole_words else ""
    return f", {100 * phase.objective.mask_share:g} % of the tokens masked{whole}"


class AtPositions(keras.layers.Layer):
  """The rows of a sequence at some positions."""

  def call(self, states, positions):
    """Returns [batch, k, width] of `states` [batch, length, width] at `positions`, int32 [batch, k]."""
    return tf.gather(states, positions, batch_dims=1)

  def compute_output_spec(self, states, positions):
    """Returns the shape and dtype of the result of `call`."""
    return keras.KerasTensor((*positions.shape, states.shape[-1]), states.dtype)


class TiedDecoder(keras.layers.Layer):
  """Logits over a vocabulary by the table of token embeddings (Press & Wolf 2017), and a bias for each token."""

  def __init__(self, table: keras.Variable, **kwargs):
    """Creates the layer for `table`, [tokens, width], which stays a variable of the backbone alone."""
    super().__init__(dtype="float32", **kwargs)
    # A function hides it from Keras, which would count it among the variables of this layer.
    self._table = lambda: table

  def build(self, shape):
    self.bias = self.add_weight((self._table().shape[0],), initializer="zeros", name="bias")

  def call(self, states):
    """Returns the logits, float32 [.., tokens], of `states` [.., width]."""
    table = tf.convert_to_tensor(self._table().value)
    return token_logits(tf.cast(states, tf.float32), table) + self.bias

  def compute_output_spec(self, states):
    """Returns the shape and dtype of the result of `call`."""
    return keras.KerasTensor((*states.shape[:-1], self._table().shape[0]), "float32")


def token_logits(states: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
  """Returns the products of states with all token embeddings, float32 [.., tokens].

  Args:
    states: float32 [.., width].
    table: float32 [tokens, width].
  """
  # One product of two matrices: the gradient of an einsum holds a table for each example of the batch.
  products = tf.matmul(tf.reshape(states, [-1, table.shape[1]]), table, transpose_b=True)
  return tf.ensure_shape(
    tf.reshape(products, tf.concat([tf.shape(states)[:-1], table.shape[:1]], axis=0)),
    [*states.shape[:-1], table.shape[0]],
  )


class MaskedTokenLoss(keras.losses.Loss):
  """The mean cross-entropy of the masked tokens of a batch, in nats."""

  def __init__(self):
    super().__init__(name="masked_tokens")

  def call(self, labels, logits):
    """Returns the mean, float32 scalar; of several devices a part of it, see `across_devices.ratio`.

    Args:
      labels: int [batch, k]; negative where there is no masked token.
      logits: float32 [batch, k, tokens].
    """
    losses, given = token_losses(tf.cast(labels, tf.int32), logits)
    return across_devices.ratio(tf.reduce_sum(losses), tf.reduce_sum(given))


def token_metrics(sums: Callable) -> Callable[[Iterable], dict[str, float]]:
  """Returns the function that measures batches (inputs, labels): their loss in nats, perplexity and accuracy.

  Args:
    sums: function of one batch that returns float [3]: the sums of losses and of right answers, and their number.
  """

  def run(batches):
    loss, right, count = sum(sums(inputs, labels).numpy().astype(np.float64) for inputs, labels in batches)
    loss /= max(count, 1)
    return {"loss": loss, "perplexity": math.exp(min(loss, LARGEST_LOSS)), "accuracy": right / max(count, 1)}

  return run


def token_losses(labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns (cross-entropy of each masked token, 1 where there is one), float32 [batch, k] each; 0 elsewhere."""
  given = tf.cast(labels >= 0, logits.dtype)
  losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), logits)
  return losses * given, given


def mask(
  inputs: dict[str, tf.Tensor],
  share: float,
  tokens: tuple[int, int],
  seeds: tf.Tensor,
  word_starts: tf.Tensor | None = None,
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
  """Masks tokens of a batch of texts: 80 % by the mask token, 10 % by any token, 10 % stay as they are.

  Args:
    inputs: BERT's inputs, int32 [batch, length].
    share: share of the tokens of each text, at least one; the special tokens at both ends do not count.
    tokens: (id of the mask token, number of tokens of the vocabulary).
    seeds: int64 [2].
    word_starts: bool [tokens], whether a token may begin a word; then whole words are masked. None for single tokens.

  Returns:
    (`inputs` with masked ids and `POSITIONS`, int32 [batch, k]; labels, int32 [batch, k], `NOTHING` where a text has
    fewer than k masked tokens).
  """
  ids = inputs["input_word_ids"]
  shape, places = tf.shape(ids), tf.range(tf.shape(ids)[1])[None]
  counts = tf.reduce_sum(inputs["input_mask"], axis=1)[:, None]
  candidates = (places > 0) & (places < counts - 1)
  chances = tf.random.stateless_uniform(tf.concat([[2], shape], axis=0), seeds)
  scores = chances[0]
  if word_starts is not None:
    word = tf.cumsum(tf.cast((tf.gather(word_starts, ids) & (places > 0)) | (places == 1), tf.int32), axis=1)
    scores = tf.gather(scores, word, batch_dims=1)
  scores = tf.where(candidates, scores, 2.0)
  wanted = tf.reduce_sum(tf.cast(candidates, tf.float32), axis=1, keepdims=True)
  wanted = tf.cast(tf.maximum(tf.round(share * wanted), 1.0), tf.int32)
  # All tokens of a word have one score, so the last word is taken whole.
  limits = tf.gather(tf.sort(scores, axis=1), tf.minimum(wanted, shape[1]) - 1, batch_dims=1)
  selected = candidates & (scores <= limits)
  most = tf.maximum(tf.reduce_max(tf.reduce_sum(tf.cast(selected, tf.int32), axis=1)), 1)
  positions = tf.argsort(tf.cast(selected, tf.int32), axis=1, direction="DESCENDING", stable=True)[:, :most]
  given = tf.gather(selected, positions, batch_dims=1)
  labels = tf.where(given, tf.gather(ids, positions, batch_dims=1), NOTHING)
  any_token = tf.random.stateless_uniform(shape, seeds + 1, maxval=tokens[1], dtype=tf.int32)
  new = tf.where(chances[1] < MASKED, tokens[0], tf.where(chances[1] < MASKED + REPLACED, any_token, ids))
  masked = inputs | {
    "input_word_ids": tf.where(selected, new, ids),
    POSITIONS: tf.ensure_shape(positions, [None, None]),
  }
  return masked, tf.ensure_shape(labels, [None, None])
