"""Next token (language modelling, Howard & Ruder 2018): the network predicts each token from those before it."""

import typing

import keras
import tensorflow as tf

from tl_app.backbones.backbone import Backbone
from tl_app.compute import across_devices
from tl_app.model import graphs
from tl_app.recipes.phase import NextToken
from tl_app.training.pretraining.masked_tokens import NOTHING, token_logits, token_metrics
from tl_app.training.pretraining.objective import PretrainingObjective

# Input with the tokens to predict.
TARGETS = "next_tokens"
# A vocabulary of fewer tokens than this many times the sampled ones is compared whole.
SAMPLE_OF = 4
# At least one of this many sampled tokens is not in the batch.
OTHERS = 4
# A text of several tokens with any vocabulary, to see what a network reads.
_PROBE = "0 1 2 3 4 5 6 7"
# Largest change of an output by rounding, relative to the outputs.
_ROUNDING = 1e-4


class NextTokenObjective(PretrainingObjective):
  """Predicts the next token at every position. The decoder is the table of token embeddings itself."""

  warm_up_steps = 300
  metrics: typing.ClassVar[dict[str, str]] = {"loss": "loss", "perplexity": "perplexity", "accuracy": "accuracy"}

  def settings(self, config):
    return NextToken(config.sampled_tokens)

  def problem(self, backbone, config):
    reason = ""
    if backbone.modality != "text":
      reason = f"reads {backbone.modality}s, which have no tokens"
    elif "sequence" not in backbone.network.output:
      reason = "has no output for each token"
    elif not backbone.preprocess.limit:
      reason = "takes strings and hides their tokens"
    elif backbone.token_table is None:
      reason = "has no table of token embeddings as wide as its outputs"
    elif not is_causal(backbone):
      reason = "reads a text in both directions, and would see the token that it predicts"
    name = backbone.spec.name
    return f"--objective=next_token: {name} {reason}: choose another objective, or lstm.scratch" if reason else ""

  def head(self, backbone, settings):
    width = backbone.network.output["sequence"].shape[-1]
    states, targets = keras.Input((None, width), name="states"), keras.Input((None,), dtype="int32", name=TARGETS)
    x = keras.layers.Dense(width, name="transform")(states)
    losses = NextTokenLosses(backbone.token_table, settings.sampled_tokens, name="decoder")(x, targets)
    return keras.Model([states, targets], losses, name="head")

  def network(self, model, phase):
    targets = keras.Input((None,), dtype="int32", name=TARGETS)
    states = graphs.backbone_outputs(model, phase)["sequence"]
    inputs = {**model.backbone.network.input, TARGETS: targets}
    return keras.Model(inputs, model.head([states, targets]), name="next_token")

  def example(self, model, phase, seed, prepared=None, held_out=False):
    preprocess = model.backbone.preprocess

    def make(raw, rows, number):
      inputs = preprocess(raw)
      targets = next_tokens(inputs["input_word_ids"], inputs["input_mask"])
      return inputs | {TARGETS: targets}, targets

    return make

  def loss(self, phase):
    return NextTokenLoss()

  def measure(self, network, phase):
    @tf.function(reduce_retracing=True)
    def sums(inputs, targets):
      outputs = network(inputs, training=False)
      given = tf.cast(targets >= 0, outputs.dtype)
      return tf.concat([tf.reduce_sum(outputs * given[..., None], axis=[0, 1]), [tf.reduce_sum(given)]], axis=0)

    return token_metrics(sums)

  def description(self, phase):
    return f", {phase.objective.sampled_tokens} sampled tokens" if phase.objective.sampled_tokens else ""


class NextTokenLosses(keras.layers.Layer):
  """The cross-entropy of each next token, decoded by the table of token embeddings (Press & Wolf 2017).

  With a large vocabulary, training compares the right token with those of the batch and a random sample of the others
  (Jean et al. 2015). Inference compares it with all.
  """

  def __init__(self, table: keras.Variable, sampled: int, **kwargs):
    """Creates the layer.

    Args:
      table: [tokens, width], which stays a variable of the backbone alone.
      sampled: number of tokens in the sample; 0 compares all.
      **kwargs: of the Keras layer.
    """
    super().__init__(dtype="float32", **kwargs)
    # A function hides it from Keras, which would count it among the variables of this layer.
    self._table = lambda: table
    self._sampled = sampled if SAMPLE_OF * sampled < table.shape[0] else 0
    self._seeds = keras.random.SeedGenerator() if self._sampled else None

  def build(self, states_shape, targets_shape):
    self.bias = self.add_weight((self._table().shape[0],), initializer="zeros", name="bias")

  def call(self, states, targets, training=False):
    """Returns float32 [batch, length, 2]: the loss, in nats, and whether the token with the largest logit is right.

    Args:
      states: float32 [batch, length, width].
      targets: int32 [batch, length]; the outputs at negative ones mean nothing.
      training: whether the sample is used; the second output is then 0.
    """
    labels = tf.maximum(targets, 0)
    if training and self._sampled:
      losses = self._sampled_losses(states, labels, tf.cast(targets >= 0, tf.float32))
      return tf.stack([losses, tf.zeros_like(losses)], axis=-1)
    logits = token_logits(states, tf.convert_to_tensor(self._table().value)) + self.bias
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    right = tf.cast(tf.argmax(logits, -1, tf.int32) == labels, losses.dtype)
    return tf.stack([losses, right], axis=-1)

  def _sampled_losses(self, states, labels, given):
    """Returns the losses [batch, length] with the tokens of the batch and a random sample of all others.

    A sampled token stands for (others / sampled) tokens, so that the loss estimates that of the whole vocabulary. The
    tokens of the batch are the common ones, of which each step needs the exact share.
    """
    tokens, size = self._table().shape[0], self._sampled
    present = tf.scatter_nd(tf.reshape(labels, [-1, 1]), tf.reshape(given, [-1]), [tokens])
    present = tf.cast(present > 0, tf.float32)
    count = tf.reduce_sum(present)
    # A batch of long texts may have more tokens than the sample, which needs some of the others all the same.
    quota = tf.maximum(tf.minimum(count, float(size - size // OTHERS)), size - (tokens - count))
    chances, places = keras.random.uniform([tokens], seed=self._seeds), tf.range(size)
    of_batch, of_others = (tf.math.top_k(chances + sign * present, size).indices for sign in (1.0, -1.0))
    first = tf.cast(quota, tf.int32)
    chosen = tf.where(places < first, of_batch, tf.gather(of_others, tf.maximum(places - first, 0)))
    expected = tf.where(places < first, quota / tf.maximum(count, 1.0), (float(size) - quota) / (tokens - count))
    column = tf.cast(tf.reshape(labels, [-1, 1]), tf.int64)
    # The right token is always compared, whether it was sampled or not.
    sample = (tf.cast(chosen, tf.int64), tf.ones_like(column, tf.float32), expected)
    losses = tf.nn.sampled_softmax_loss(
      *(self._table().value, self.bias.value, column, tf.reshape(states, [-1, states.shape[-1]])),
      *(self._sampled, tokens),
      sampled_values=sample,
    )
    return tf.reshape(losses, tf.shape(labels))

  def compute_output_spec(self, states, targets, training=False):
    """Returns the shape and dtype of the result of `call`."""
    return keras.KerasTensor((*targets.shape, 2), "float32")


class NextTokenLoss(keras.losses.Loss):
  """The mean of the losses that the network returns, over the tokens of a batch."""

  def __init__(self):
    super().__init__(name="next_token")

  def call(self, targets, outputs):
    """Returns the mean, float32 scalar, of the outputs of `NextTokenLosses` where `targets` are not negative."""
    given = tf.cast(tf.cast(targets, tf.int32) >= 0, outputs.dtype)
    return across_devices.ratio(tf.reduce_sum(outputs[..., 0] * given), tf.reduce_sum(given))


def next_tokens(ids: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
  """Returns the token after each position, int32 [batch, length]; `NOTHING` at the end of a text and at padding.

  Args:
    ids: int32 [batch, length].
    mask: int32 [batch, length], 1 at each token.
  """
  return tf.pad(tf.where(mask[:, 1:] > 0, ids[:, 1:], NOTHING), [[0, 0], [0, 1]], constant_values=NOTHING)


def is_causal(backbone: Backbone) -> bool:
  """Returns whether the output at a token depends on no later token: another last token changes no output before it."""
  inputs = backbone.preprocess(tf.constant([_PROBE]))
  ids, count = inputs["input_word_ids"], int(tf.reduce_sum(inputs["input_mask"]))
  other = tf.tensor_scatter_nd_update(ids, [[0, count - 1]], [ids[0, 0]])
  first, second = (
    backbone.network(inputs | {"input_word_ids": tokens}, training=False)["sequence"][:, : count - 1]
    for tokens in (ids, other)
  )
  return float(tf.reduce_max(tf.abs(first - second))) <= _ROUNDING * float(tf.reduce_max(tf.abs(first)))
