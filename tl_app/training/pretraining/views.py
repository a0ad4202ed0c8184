"""Agreement of two views (Chen et al. 2020, SimCLR; Gao et al. 2021, unsupervised SimCSE)."""

import typing

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from tl_app.backbones import keras_internals
from tl_app.backbones.float32_layers import L2_NORMALIZED
from tl_app.compute import across_devices
from tl_app.data.augmentation import views
from tl_app.data.augmentation.views import ViewSettings
from tl_app.model import graphs
from tl_app.recipes.phase import Views
from tl_app.training.pretraining.objective import PretrainingObjective

# Default temperatures: of SimCSE, and of MoCo v2, whose batches are as small as those of one machine.
TEMPERATURES = {"text": 0.05, "image": 0.2}
# Similarity of a view with itself, which is not compared.
NEVER = -1e9


class ViewsObjective(PretrainingObjective):
  """Two views of an example have similar projections, those of two examples have not.

  The views of an image are random parts of it with other colours. Those of a text are two passes with other dropout.
  """

  metrics: typing.ClassVar[dict[str, str]] = {"loss": "loss", "alignment": "alignment", "uniformity": "uniformity"}

  def settings(self, config):
    return Views(config.temperature, config.crop_scale, config.color_jitter, config.view_flip)

  def problem(self, backbone, config):
    name = backbone.spec.name
    if config.examples_per_step < 2:
      return (
        f"--objective=views compares an example with the others of its batch, and --batch_size={config.batch_size} "
        "leaves none: use 2 or more"
      )
    if backbone.modality == "text" and not has_dropout(backbone):
      return (
        f"--objective=views: {name} has no dropout, so that two passes over a text are equal: choose another backbone "
        "or objective"
      )
    return ""

  def head(self, backbone, settings):
    width = backbone.feature_size
    features = keras.Input((width,), name="features")
    if backbone.modality == "text":
      return keras.Model(features, layers.Dense(width, "tanh", name="projection")(features), name="head")
    x = layers.Dense(width, "relu", name="hidden")(features)
    # As wide as the features, so that `projections_and_features` finds both.
    return keras.Model(features, layers.Dense(width, name="projection")(x), name="head")

  def network(self, model, phase):
    features = graphs.backbone_outputs(model, phase)["features"]
    temperature = phase.objective.temperature or TEMPERATURES[model.backbone.modality]
    # So the product of two projections is their cosine divided by the temperature.
    scaled = layers.UnitNormalization(name=L2_NORMALIZED)(model.head(features)) / temperature**0.5
    # The features are measured, not trained: the loss does not read them.
    outputs = ops.concatenate([ops.cast(x, "float32") for x in (scaled, features)], axis=-1)
    return keras.Model(model.backbone.network.input, outputs, name="views")

  def example(self, model, phase, seed, prepared=None, held_out=False):
    preprocess, settings = model.backbone.preprocess, view_settings(phase.objective)
    is_text = model.backbone.modality == "text"

    def make(raw, rows, number):
      inputs, seeds = preprocess(raw), tf.stack([tf.constant(seed, tf.int64), number])
      if is_text:
        doubled = tf.nest.map_structure(lambda x: views.interleaved(x, x), inputs)
      else:
        doubled = views.two_views(inputs, settings, seeds)
      return doubled, tf.repeat(rows, 2)

    return make

  def loss(self, phase):
    return ViewsLoss()

  def measure(self, network, phase):
    loss, states = self.loss(phase), seed_states(network)
    start = [state.numpy() for state in states]
    # The views of an image differ already; those of a text need dropout.
    training = len(tf.nest.flatten(network.input)[0].shape) != 4

    @tf.function(reduce_retracing=True)
    def of_batch(inputs, rows):
      outputs = network(inputs, training=training)
      projections, features = projections_and_features(outputs)
      return loss(rows, outputs), tf.math.l2_normalize(features, axis=-1)

    def run(batches):
      before = [state.numpy() for state in states]
      # The same dropout in each measurement.
      _assign(states, start)
      losses, features = [], []
      try:
        for inputs, rows in batches:
          value, found = of_batch(inputs, rows)
          losses.append((len(found), float(value)))
          features.append(found.numpy())
      finally:
        _assign(states, before)
      sizes, values = np.array(losses).T
      found = np.concatenate(features)
      return {
        "loss": float(np.average(values, weights=sizes)),
        "alignment": float(np.mean(np.sum((found[::2] - found[1::2]) ** 2, axis=1))),
        "uniformity": uniformity(found[::2]),
      }

    return run

  def description(self, phase):
    temperature = phase.objective.temperature
    return ", two views of each example" + (f", temperature {temperature:g}" if temperature else "")


def view_settings(settings) -> ViewSettings:
  """Returns the `ViewSettings` in the record of an objective."""
  return ViewSettings(settings.crop_scale, settings.color_jitter, settings.view_flip)


def has_dropout(backbone) -> bool:
  """Whether two passes over the same inputs can differ in training."""
  if backbone.single_mode:
    return backbone.has_training_mode
  found = keras_internals.flat_layers(backbone.network, include_self=False)
  return any(isinstance(layer, layers.Dropout | layers.SpatialDropout1D) and layer.rate > 0 for layer in found)


def projections_and_features(outputs: tf.Tensor) -> list[tf.Tensor]:
  """Returns [projections, features], float32 [rows, width] each, of the outputs of the network."""
  return tf.split(outputs, 2, axis=-1)


def seed_states(network: keras.Model) -> list[keras.Variable]:
  """Returns the states of the random generators of a network's layers."""
  weights = {id(variable) for variable in network.weights}
  return [variable for variable in network.variables if id(variable) not in weights and "seed" in variable.path]


def uniformity(features: np.ndarray) -> float:
  """Returns the logarithm of the mean Gaussian potential of all pairs (Wang & Isola 2020), the lower the more uniform.

  Args:
    features: float32 [n, width] of L2 norm 1.
  """
  squared = 2.0 - 2.0 * (features @ features.T)
  others = squared[~np.eye(len(features), dtype=bool)]
  return float(np.log(np.mean(np.exp(-2.0 * others)))) if len(others) else 0.0


class ViewsLoss(keras.losses.Loss):
  """The mean cross-entropy of finding the other view of an example among all views of a batch (NT-Xent, InfoNCE)."""

  def __init__(self):
    super().__init__(name="views")

  def call(self, rows, outputs):
    """Returns the mean, float32 scalar.

    Args:
      rows: int64 [2 * batch], positions of the examples. Copies of an example in a batch are not compared.
      outputs: float32 [2 * batch, 2 * width], see `projections_and_features`; the two views of an example come in turn.
    """
    projections, _ = projections_and_features(outputs)
    every, first = across_devices.rows(projections)
    similarity = tf.matmul(projections, every, transpose_b=True)
    rows = tf.reshape(tf.cast(rows, tf.int64), [-1])
    own, count = tf.range(tf.shape(rows)[0]) + first, tf.shape(every)[0]
    other = tf.bitwise.bitwise_xor(own, 1)
    same = (rows[:, None] == across_devices.rows(rows)[0]) & ~tf.one_hot(other, count, True, False, dtype=tf.bool)
    similarity = tf.where(same, NEVER, similarity)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(other, similarity)
    return across_devices.ratio(tf.reduce_sum(losses), tf.cast(tf.size(losses), losses.dtype))


def _assign(states, values):
  for state, value in zip(states, values):
    state.assign(value)
