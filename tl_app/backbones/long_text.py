"""Backbones that read more of a long text than its beginning."""

import dataclasses

import keras
import tensorflow as tf

from tl_app.backbones.backbone import Backbone
from tl_app.errors import UserError
from tl_app.preprocessing import long_text

MASK = "input_mask"


def read_long(backbone: Backbone, long_text_mode: str, max_windows: int) -> Backbone:
  """Returns the backbone that reads long texts as --long_text says; weights and stages are shared.

  Args:
    backbone: a text `Backbone`.
    long_text_mode: "head_tail": the first and the last tokens, in one sequence. "windows": each window runs through
      the network, and the features are the mean over the windows, which all hold equally many tokens.
    max_windows: largest number of windows of a text.

  Raises:
    UserError: its preprocessing does not give the tokens of a text.
  """
  preprocess, name = backbone.preprocess, backbone.spec.name
  if not preprocess.limit:
    raise UserError(f"--long_text={long_text_mode}: {name} reads texts of any length: remove the flag")
  if not preprocess.can_pack:
    raise UserError(
      f"--long_text={long_text_mode}: the preprocessing module of {name} makes whole sequences of {preprocess.limit} "
      "tokens: remove the flag, or choose a backbone with its own vocabulary"
    )
  if long_text_mode == "head_tail":
    return dataclasses.replace(backbone, preprocess=long_text.HeadTail(preprocess))
  inputs = {key: keras.Input((None, None), dtype=x.dtype, name=key) for key, x in backbone.network.input.items()}
  windows = RealWindows(name="windows")(inputs)
  owners = windows.pop("owner")
  features = PoolWindows(name="pool_windows")(backbone.network.call(windows)["features"], owners, inputs[MASK])
  return dataclasses.replace(
    backbone,
    preprocess=long_text.Windows(preprocess, max_windows),
    network=keras.Model(inputs, {"features": features}, name="backbone"),
  )


class RealWindows(keras.layers.Layer):
  """Lays the windows of a batch of texts one under the other, without the empty ones."""

  def call(self, inputs):
    """Returns the windows as one batch.

    Args:
      inputs: {name: int32 [batch, windows, length]}. Every text has a window.

    Returns:
      {name: int32 [windows, length]}, and "owner", int32 [windows]: the row in the batch of the text of each window.
    """
    positions = tf.where(tf.reduce_any(inputs[MASK] > 0, axis=2))
    windows = {name: tf.gather_nd(x, positions) for name, x in inputs.items()}
    return windows | {"owner": tf.cast(positions[:, 0], tf.int32)}

  def compute_output_spec(self, inputs):
    """Returns the shapes and dtypes of the results of `call`."""
    outputs = {name: keras.KerasTensor((None, None), x.dtype) for name, x in inputs.items()}
    return outputs | {"owner": keras.KerasTensor((None,), "int32")}


class PoolWindows(keras.layers.Layer):
  """The mean over the windows of each text."""

  def call(self, features, owners, mask):
    """Returns float32 [batch, width].

    Args:
      features: float32 [windows, width].
      owners: int32 [windows], as "owner" of `RealWindows`.
      mask: int32 [batch, windows, length], for the size of the batch.
    """
    return tf.math.unsorted_segment_mean(features, owners, tf.shape(mask)[0])

  def compute_output_spec(self, features, owners, mask):
    """Returns the shape and dtype of the result of `call`."""
    return keras.KerasTensor((None, features.shape[-1]), features.dtype)
