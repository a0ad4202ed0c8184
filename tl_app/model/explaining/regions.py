"""Which regions of an image an answer is due to. Heat maps are float [rows, columns], from the upper left corner."""

import dataclasses

import keras
import numpy as np
import scipy.ndimage
import tensorflow as tf

from tl_app.model.explaining import integration
from tl_app.model.explaining.integration import Integrated
from tl_app.model.explaining.methods import Score
from tl_app.model.model import Model

# Level of the pixels, in [0, 1], of a plain grey image and of a hidden region.
GREY = 0.5
# Most cells of a side of a heat map.
CELLS = 28
# A hidden region is this share of the side of the image, and moves by half of itself.
HIDDEN = 1 / 7
# Images in one forward pass.
BATCH = 8


class GradCam:
  """Grad-CAM (Selvaraju et al. 2017) of a model."""

  def __init__(self, model: Model):
    """Divides the network at its feature map.

    Args:
      model: whose backbone `pools_map`.
    """
    feature_map = model.backbone.network.output["map"]
    self._below = keras.Model(model.backbone.network.input, feature_map)
    self._above = keras.Model(feature_map, model.network.output)

  def heat(self, pixels: tf.Tensor, score: Score) -> np.ndarray:
    """Returns the heat map, of the size of the feature map; no value is below 0.

    Args:
      pixels: float32 [1, size, size, 3] in [0, 1].
      score: function of logits, tensor [batch, ..], to scores, tensor [batch].
    """
    values = self._below(pixels, training=False)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(values)
      scores = score(self._above(values, training=False))
    weights = tf.reduce_mean(tape.gradient(scores, values), axis=[1, 2], keepdims=True)
    return np.asarray(tf.nn.relu(tf.reduce_sum(weights * values, axis=-1))[0])


def located(heat: np.ndarray) -> np.ndarray:
  """Returns a heat map of Grad-CAM whose largest value says where the evidence is, float [cells, cells].

  Neighbouring positions of a feature map see almost the same part of the image: evidence shows in several of them, and
  which one is the largest is chance. So each gets the mean of itself and its neighbours, weighted 1, 2, 1 in both
  directions and 0 beyond the border. Between the positions the map is interpolated, to `CELLS` cells a side.
  """
  for axis in (0, 1):
    heat = scipy.ndimage.convolve1d(heat, [0.25, 0.5, 0.25], axis, mode="constant")
  factor = max(CELLS / len(heat), 1)
  return scipy.ndimage.zoom(heat, factor, order=1, mode="nearest", grid_mode=True)


@dataclasses.dataclass
class _Pixels:
  """The way from a grey image to an image, see `integration.Path`."""

  model: Model
  pixels: tf.Tensor
  score: Score
  chunk: int = BATCH

  def evaluate(self, shares):
    points = GREY + tf.constant(shares, tf.float32)[:, None, None, None] * (self.pixels - GREY)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(points)
      scores = self.score(self.model.network(points, training=False))
    return scores.numpy(), [tape.gradient(scores, points).numpy()]

  def differences(self):
    return [self.pixels[0].numpy() - GREY]


def integrated_gradients(model: Model, pixels: tf.Tensor, score: Score) -> tuple[np.ndarray, Integrated]:
  """Returns (heat map, `Integrated`): the attributions of the pixels, summed over cells, against a grey image.

  Args:
    model: whose backbone `has_input_gradient`.
    pixels, score: as of `GradCam.heat`.
  """
  found = integration.integrate(_Pixels(model, pixels, score))
  return _cell_sums(found.attributions[0].sum(axis=-1)), found


def occlusion(model: Model, pixels: tf.Tensor, score: Score) -> np.ndarray:
  """Returns the heat map of occlusion (Zeiler and Fergus 2014).

  A grey square moves over the image. The value of a cell is the mean fall of the score over the squares that hide it.

  Args:
    model: the `Model`.
    pixels, score: as of `GradCam.heat`.
  """
  image = pixels[0].numpy()
  size = len(image)
  step = max(1, round(size * HIDDEN / 2))
  cells = -(-size // step)
  side = min(2, cells)
  corners = [(row, column) for row in range(cells - side + 1) for column in range(cells - side + 1)]
  before, falls = _scores(model, image[None], score)[0], np.zeros(len(corners))
  for start in range(0, len(corners), BATCH):
    part = corners[start : start + BATCH]
    hidden = np.repeat(image[None], len(part), axis=0)
    for copy, (row, column) in zip(hidden, part):
      copy[row * step : (row + side) * step, column * step : (column + side) * step] = GREY
    falls[start : start + BATCH] = before - _scores(model, hidden, score)
  heat, count = np.zeros([2, cells, cells])
  for fall, (row, column) in zip(falls, corners):
    heat[row : row + side, column : column + side] += fall
    count[row : row + side, column : column + side] += 1
  return heat / count


def _scores(model, images, score):
  return score(model.network(tf.constant(images), training=False)).numpy()


def _cell_sums(values):
  """Returns the sums over cells, float [cells, cells], of float [size, size]."""
  edges = np.linspace(0, len(values), min(CELLS, len(values)) + 1).astype(int)[:-1]
  return np.add.reduceat(np.add.reduceat(values, edges, axis=0), edges, axis=1)
