"""Denoising autoencoders (Vincent et al. 2008): a small decoder rebuilds an example from its features.

Images lose patches, as for masked autoencoders (He et al. 2022); texts lose tokens, as for TSDAE (Wang et al. 2021),
whose decoder predicts a sequence. Here it predicts which tokens the text has, in any order.
"""

import keras
import tensorflow as tf
from keras import layers

from tl_app.backbones.bert import gelu
from tl_app.compute import across_devices
from tl_app.model import graphs
from tl_app.preprocessing.base import Preprocess
from tl_app.recipes.phase import Reconstruct
from tl_app.training.pretraining.masked_tokens import NOTHING, TiedDecoder
from tl_app.training.pretraining.objective import PretrainingObjective

# Height and width of the image that the decoder makes, and of the grid of patches.
SIZE, PATCHES = 32, 8
# Channels of the layers of the decoder of images, each of twice the height and width.
CHANNELS = (128, 64, 32)


class ReconstructObjective(PretrainingObjective):
  """Rebuilds an example, of which a share is hidden, from its features."""

  warm_up_steps = 100

  def settings(self, config):
    return Reconstruct(config.noise_share)

  def problem(self, backbone, config):
    name, preprocess = backbone.spec.name, backbone.preprocess
    if backbone.modality == "text" and not preprocess.limit:
      return (
        f"--objective=reconstruct: {name} takes strings and hides their tokens: choose another backbone or objective"
      )
    if backbone.modality == "text" and backbone.token_table is None and not preprocess.vocabulary_size:
      return f"--objective=reconstruct: {name} does not tell how many tokens it knows: choose another backbone"
    return ""

  def head(self, backbone, settings):
    features = keras.Input((backbone.feature_size,), name="features")
    decode = _token_decoder if backbone.modality == "text" else _image_decoder
    return keras.Model(features, decode(backbone, features), name="head")

  def network(self, model, phase):
    features = graphs.backbone_outputs(model, phase)["features"]
    return keras.Model(model.backbone.network.input, model.head(features), name="reconstruct")

  def example(self, model, phase, seed, prepared=None, held_out=False):
    preprocess, share = model.backbone.preprocess, phase.objective.noise_share
    is_text = model.backbone.modality == "text"

    def make(raw, rows, number):
      inputs, seeds = preprocess(raw), tf.stack([tf.constant(seed, tf.int64), number])
      return hide_tokens(inputs, share, seeds, blank(preprocess)) if is_text else hide_patches(inputs, share, seeds)

    return make

  def loss(self, phase):
    return ReconstructionLoss()

  def description(self, phase):
    return f", {100 * phase.objective.noise_share:g} % hidden"


def _token_decoder(backbone, features):
  table = backbone.token_table
  if table is None:
    return layers.Dense(backbone.preprocess.vocabulary_size, name="decoder")(features)
  x = layers.Dense(table.shape[1], name="transform")(features)
  x = layers.LayerNormalization(epsilon=1e-12, name="transform_norm")(gelu(x))
  return TiedDecoder(table, name="decoder")(x)


def _image_decoder(backbone, features):
  side = SIZE >> len(CHANNELS)
  x = layers.Dense(side * side * CHANNELS[0], "relu", name="decoder_dense")(features)
  x = layers.Reshape((side, side, CHANNELS[0]), name="decoder_map")(x)
  for number, channels in enumerate(CHANNELS):
    x = layers.UpSampling2D(name=f"decoder_up_{number}")(x)
    x = layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"decoder_conv_{number}")(x)
  return layers.Conv2D(3, 3, padding="same", name="decoder_pixels")(x)


def hide_patches(images: tf.Tensor, share: float, seeds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Hides patches of images.

  Args:
    images: float32 [batch, size, size, 3] in [0, 1].
    share: chance of a patch to be hidden.
    seeds: int64 [2].

  Returns:
    (the images, with the mean colour of the image in the hidden patches; the images at `SIZE` pixels).
  """
  shape = tf.shape(images)
  grid = tf.random.stateless_uniform([shape[0], PATCHES, PATCHES, 1], seeds) < share
  hidden = tf.image.resize(tf.cast(grid, tf.float32), shape[1:3], "nearest")
  mean = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
  noisy = tf.ensure_shape(hidden * mean + (1.0 - hidden) * images, images.shape)
  return noisy, tf.image.resize(images, [SIZE, SIZE], antialias=True)


def blank(preprocess: Preprocess) -> int:
  """Returns the id of the token that stands for a hidden one: the mask token, or else that of padding."""
  if preprocess.mask_token >= 0:
    return preprocess.mask_token
  return preprocess.special_tokens[2] if preprocess.special_tokens else 0


def hide_tokens(
  inputs: dict[str, tf.Tensor], share: float, seeds: tf.Tensor, other: int | None = None
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
  """Hides tokens of texts: the network does not attend to them.

  Args:
    inputs: BERT's inputs, int32 [batch, length].
    share: chance of a token to be hidden; the special tokens at both ends never are.
    seeds: int64 [2].
    other: id in place of hidden tokens, for networks that read every token, such as an LSTM; None leaves the tokens.

  Returns:
    (`inputs` with another mask, all tokens: int32 [batch, length], `NOTHING` at special tokens and padding).
  """
  ids, mask = inputs["input_word_ids"], inputs["input_mask"]
  places = tf.range(tf.shape(ids)[1])[None]
  inner = (places > 0) & (places < tf.reduce_sum(mask, axis=1)[:, None] - 1)
  hidden = inner & (tf.random.stateless_uniform(tf.shape(ids), seeds) < share)
  shown = ids if other is None else tf.where(hidden, other, ids)
  noisy = inputs | {"input_word_ids": shown, "input_mask": tf.where(hidden, 0, mask)}
  return noisy, tf.where(inner, ids, NOTHING)


class ReconstructionLoss(keras.losses.Loss):
  """The mean squared error of pixels, or the mean cross-entropy of the tokens of a text."""

  def __init__(self):
    super().__init__(name="reconstruct")

  def call(self, targets, outputs):
    """Returns the mean, float32 scalar.

    Args:
      targets: float32 [batch, `SIZE`, `SIZE`, 3], or int [batch, length] with negative numbers where there is nothing.
      outputs: like the images; or logits, float32 [batch, tokens].
    """
    if len(outputs.shape) == 4:
      squares = tf.square(targets - outputs)
      return across_devices.ratio(tf.reduce_sum(squares), tf.cast(tf.size(squares), squares.dtype))
    ids = tf.cast(targets, tf.int32)
    given = tf.cast(ids >= 0, outputs.dtype)
    logs = tf.gather(tf.nn.log_softmax(outputs), tf.maximum(ids, 0), batch_dims=1)
    return across_devices.ratio(-tf.reduce_sum(logs * given), tf.reduce_sum(given))
