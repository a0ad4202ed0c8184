"""Backbones that read more of a long text than its beginning."""

import dataclasses

import keras
import tensorflow as tf

from tl_app.errors import UserError
from tl_app.preprocessing import long_text

MASK = "input_mask"


def read_long(backbone, how, max_windows):
  """Returns the `Backbone` that reads long texts as --long_text says; weights and stages are shared.

  Args:
    backbone: a text `Backbone`.
    how: "head_tail": the first and the last tokens, in one sequence. "windows": every window runs through the network,
      and the features are the mean of theirs, as windows of a text hold equally many tokens.
    max_windows: most windows of a text.

  Raises:
    UserError: its preprocessing gives no tokens to choose from.
  """
  preprocess, name = backbone.preprocess, backbone.spec.name
  if not preprocess.limit:
    raise UserError(f"--long_text={how}: {name} reads texts of any length: leave the flag out")
  if not preprocess.can_pack:
    raise UserError(
      f"--long_text={how}: the preprocessing module of {name} makes whole sequences of {preprocess.limit} tokens: "
      "leave the flag out, or take a backbone with its own vocabulary"
    )
  if how == "head_tail":
    return dataclasses.replace(backbone, preprocess=long_text.HeadTail(preprocess))
  inputs = {key: keras.Input((None, None), dtype=x.dtype, name=key) for key, x in backbone.network.input.items()}
  windows = RealWindows(name="windows")(inputs)
  owners = windows.pop("owner")
  pooled = PoolWindows(name="pool_windows")(backbone.network.call(windows)["features"], owners, inputs[MASK])
  return dataclasses.replace(
    backbone,
    preprocess=long_text.Windows(preprocess, max_windows),
    network=keras.Model(inputs, {"features": pooled}, name="backbone"),
  )


class RealWindows(keras.layers.Layer):
  """Lays the windows of a batch of texts one under the other, without those that only fill up."""

  def call(self, inputs):
    """Returns {name: int32 [windows, length]} of {name: int32 [batch, windows, length]}, and "owner".

    Every text has a window. "owner", int32 [windows], is the row in the batch of the text of each.
    """
    places = tf.where(tf.reduce_any(inputs[MASK] > 0, axis=2))
    return {name: tf.gather_nd(x, places) for name, x in inputs.items()} | {"owner": tf.cast(places[:, 0], tf.int32)}

  def compute_output_spec(self, inputs):
    """Returns the `KerasTensor`s of `call`."""
    outputs = {name: keras.KerasTensor((None, None), x.dtype) for name, x in inputs.items()}
    return outputs | {"owner": keras.KerasTensor((None,), "int32")}


class PoolWindows(keras.layers.Layer):
  """The mean over the windows of each text."""

  def call(self, features, owners, mask):
    """Returns float32 [batch, width] of [windows, width], int32 [windows] and int32 [batch, windows, length]."""
    return tf.math.unsorted_segment_mean(features, owners, tf.shape(mask)[0])

  def compute_output_spec(self, features, owners, mask):
    """Returns the `KerasTensor` of `call`."""
    return keras.KerasTensor((None, features.shape[-1]), features.dtype)
