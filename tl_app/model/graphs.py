"""Networks made of a backbone and a head: what a phase trains."""

import keras
import tensorflow as tf
from keras import ops

from tl_app.backbones.backbone import Backbone
from tl_app.backbones.float32_layers import PER_TOKEN
from tl_app.recipes.phase import HEAD, Phase


class Trunk(keras.layers.Layer):
  """A network that always runs in inference mode.

  A functional model passes its own `training` argument to every layer, in place of the value given when it was built.
  """

  def __init__(self, network: keras.Model):
    super().__init__(name="trunk")
    self.network = network

  def call(self, inputs):
    """Returns the network's outputs, without dropout and with moving statistics."""
    return self.network(inputs, training=False)


class PerToken(keras.layers.Layer):
  """Puts the rows of the tokens of a batch back into a tensor, with zeros at the positions without a token."""

  def call(self, rows, mask):
    """Returns float32 [batch, positions, outputs].

    Args:
      rows: float32 [batch * positions, outputs].
      mask: float32 [batch, positions], 1 at each token.
    """
    shape = tf.concat([tf.shape(mask), [rows.shape[-1]]], axis=0)
    return tf.reshape(rows, shape) * tf.cast(mask, rows.dtype)[..., None]

  def compute_output_spec(self, rows, mask):
    """Returns the shape and dtype of the result of `call`."""
    return keras.KerasTensor((*mask.shape, rows.shape[-1]), rows.dtype)


def head_on(head: keras.Model, outputs: dict[str, keras.KerasTensor]) -> keras.KerasTensor:
  """Applies a head to the outputs of a `Backbone.network`.

  Args:
    head: `keras.Model`, [batch, feature_size] -> [batch, outputs].
    outputs: of the network, with "features" and, for features per token, "mask".

  Returns:
    The logits, [batch, outputs]; [batch, positions, outputs] for features per token.
  """
  features = outputs["features"]
  if "mask" not in outputs:
    return head(features)
  rows = head(ops.reshape(features, (-1, features.shape[-1])))
  return PerToken(name=PER_TOKEN)(rows, outputs["mask"])


def lowest_active(model, phase: Phase) -> str:
  """Returns the name of the lowest stage that runs in training mode in a phase."""
  if phase.trains.bn == "train" and model.statistics:
    return next(iter(model.stages))
  return next(stage for stage in model.stages if stage in phase.trains.train_stages)


def training_network(model, phase: Phase, top: keras.layers.Layer | None = None) -> keras.Model:
  """Returns the network that a phase fits: the stages below `lowest_active` form a trunk in inference mode.

  A backbone that cannot be split there (a SavedModel; one layer with stages on both sides) is used whole: in training
  mode if any of it trains. Phases in a row that fit the same network get the same object.

  Args:
    model: the `Model`.
    phase: the `Phase`.
    top: layer on the features, in place of the head; None for the head.

  Returns:
    `keras.Model`, backbone inputs -> logits.
  """
  lowest = lowest_active(model, phase)
  return _kept(model, (lowest, top and top.name), lambda: _training_network(model, phase, lowest, top))


def tail_network(model, stage: str, tail: keras.Model) -> keras.Model:
  """Returns the network above a trunk, of which `Backbone.split` makes a new one every time.

  As of `training_network`, phases in a row that train above the same stage get the same object.

  Args:
    model: the `Model`.
    stage: name of the lowest stage of the tail.
    tail: second result of `Backbone.split`.

  Returns:
    `keras.Model`, outputs of the trunk -> logits.
  """
  return _kept(
    model, (stage, tail.name), lambda: keras.Model(tail.input, head_on(model.head, dict(tail.output)), name="tail_head")
  )


def _kept(model, key, make):
  if key not in model.training_networks:
    model.training_networks.clear()
    model.training_networks[key] = make()
  return model.training_networks[key]


def _training_network(model, phase, lowest, top):
  backbone: Backbone = model.backbone
  if not backbone.can_split(lowest):
    return keras.Model(backbone.network.input, top(model.features.output)) if top else model.network
  outputs = backbone_outputs(model, phase)
  upper = top(outputs["features"]) if top else head_on(model.head, outputs)
  return keras.Model(backbone.network.input, upper, name="trunk_tail_head")


def backbone_outputs(model, phase: Phase) -> dict[str, keras.KerasTensor]:
  """Returns the outputs of the backbone on its inputs, `backbone.network.input`, as a phase trains it.

  The stages below `lowest_active` form a trunk in inference mode; a phase that trains the head alone has the whole
  backbone in it. A backbone that cannot be split is used whole, in training mode if any of it trains.

  Args:
    model: the `BackboneWithHead`.
    phase: the `Phase`.
  """
  lowest, backbone = lowest_active(model, phase), model.backbone
  if lowest == HEAD:
    return Trunk(backbone.network)(backbone.network.input)
  if not backbone.can_split(lowest):
    return backbone.network.output
  trunk, tail = backbone.split(lowest)
  return tail(Trunk(trunk)(backbone.network.input))
