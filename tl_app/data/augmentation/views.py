"""Two random views of each image of a batch, for objectives that compare them (SimCLR, Chen et al. 2020)."""

import dataclasses
import math

import tensorflow as tf

# Largest ratio of the sides of a crop, as in SimCLR.
ASPECT = 4 / 3
# Share of the views whose colours change, and share that become grey, as in SimCLR.
JITTERED, GREY = 0.8, 0.2
# Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601).
LUMINANCE = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class ViewSettings:
  """How far a view may differ from its image.

  Attributes:
    crop_scale: smallest share of the area that a view shows.
    color_jitter: largest relative change of brightness, contrast and saturation; 0 leaves the colours.
    flip: whether half of the views are mirrored, left to right.
  """

  crop_scale: float
  color_jitter: float
  flip: bool


def view(images: tf.Tensor, settings: ViewSettings, seeds: tf.Tensor) -> tf.Tensor:
  """Returns one view of each image: a part of it at the full size, with other colours.

  Args:
    images: float32 [batch, size, size, 3] in [0, 1].
    settings: the `ViewSettings`.
    seeds: int64 [2]; the same seeds give the same views.
  """
  chances = tf.random.stateless_uniform([10, tf.shape(images)[0]], seeds)
  boxes = _boxes(chances[:5], settings)
  size = images.shape[1:3] if images.shape[1] else tf.shape(images)[1:3]
  cropped = tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), size)
  return tf.ensure_shape(_recolored(cropped, chances[5:], settings.color_jitter), images.shape)


def two_views(images: tf.Tensor, settings: ViewSettings, seeds: tf.Tensor) -> tf.Tensor:
  """Returns float32 [2 * batch, ..]: two views of each image, in turn. The arguments are those of `view`."""
  views = [view(images, settings, tf.random.experimental.stateless_fold_in(seeds, number)) for number in range(2)]
  return interleaved(*views)


def interleaved(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Returns the rows of two tensors [batch, ..] in turns, [2 * batch, ..]: each device gets both of a pair."""
  rows = tf.stack([first, second], axis=1)
  return tf.ensure_shape(tf.reshape(rows, tf.concat([[-1], tf.shape(first)[1:]], axis=0)), [None, *first.shape[1:]])


def _boxes(chances, settings):
  """Returns float32 [batch, 4], (top, left, bottom, right) as shares; left and right are swapped in a mirrored view."""
  area = settings.crop_scale + (1.0 - settings.crop_scale) * chances[0]
  ratio = tf.exp((2.0 * chances[1] - 1.0) * math.log(ASPECT))
  height = tf.minimum(tf.sqrt(area * ratio), 1.0)
  width = tf.minimum(tf.sqrt(area / ratio), 1.0)
  top, left = chances[2] * (1.0 - height), chances[3] * (1.0 - width)
  right = left + width
  mirrored = (chances[4] < 0.5) & settings.flip
  return tf.stack([top, tf.where(mirrored, right, left), top + height, tf.where(mirrored, left, right)], axis=1)


def _recolored(images, chances, jitter):
  if not jitter:
    return images
  chances = chances[:, :, None, None, None]
  brightness, contrast, saturation = (1.0 + jitter * (2.0 * chances[i] - 1.0) for i in range(3))
  changed = images * brightness
  mean = tf.reduce_mean(changed, axis=[1, 2, 3], keepdims=True)
  changed = mean + contrast * (changed - mean)
  grey = tf.reduce_sum(changed * tf.constant(LUMINANCE), axis=-1, keepdims=True)
  saturation = tf.where(chances[4] < GREY, 0.0, saturation)
  changed = tf.clip_by_value(grey + saturation * (changed - grey), 0.0, 1.0)
  return tf.where(chances[3] < JITTERED, changed, images)
