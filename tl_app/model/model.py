"""Backbone and head as one network."""

import dataclasses
import hashlib

import keras
import numpy as np
import tensorflow as tf

from tl_app import backbones
from tl_app.backbones import long_text, text_pairs, token_features
from tl_app.data import pipeline
from tl_app.errors import UserError
from tl_app.model import heads
from tl_app.recipes.recipes import HEAD, UNIT_LENGTH

# Examples per forward pass without gradients, at least: nothing is kept, so more fit than in a training batch.
INFERENCE_BATCH = 64
# Of texts in windows so many tokens: those of 64 texts of 512.
INFERENCE_TOKENS = 64 * 512


@dataclasses.dataclass
class Model:
  """What is trained, evaluated and exported.

  Attributes:
    backbone: the `Backbone`.
    head: `keras.Model`, pooled features [batch, feature_size] -> logits [batch, num_classes].
    features: `keras.Model`, backbone inputs -> pooled features [batch, feature_size], or [batch, positions,
      feature_size] where the task asks for each word.
    network: `keras.Model`, backbone inputs -> logits; shares every variable with the others.
    task: the `Task`: what the logits mean.
    can_train: ids of the variables that a gradient may change; moving statistics and the head's scale are not.
    statistics: ids of the moving statistics of the backbone's BatchNormalization.
  """

  backbone: object
  head: keras.Model
  features: keras.Model
  network: keras.Model
  task: object
  can_train: frozenset
  statistics: frozenset

  @property
  def stages(self):
    """Ordered dict, stage name -> variables: the backbone's stages, then the head."""
    return {**self.backbone.stages, HEAD: list(self.head.variables)}


def build(backbone, task, unit_length=False):
  """Returns the `Model` of a backbone and a fresh head for a fitted `Task`; `unit_length` as in `heads.linear`."""
  head = heads.linear(backbone.feature_size, len(task.names), unit_length)
  features = keras.Model(backbone.network.input, backbone.network.output["features"], name="features")
  network = keras.Model(backbone.network.input, token_features.head_on(head, backbone.network.output), name="network")
  can_train = frozenset(id(variable) for variable in network.trainable_variables)
  statistics = frozenset(id(variable) for variable in _statistics(backbone.network))
  return Model(backbone, head, features, network, task, can_train, statistics)


def _statistics(network):
  for layer in network._flatten_layers(include_self=False):
    if isinstance(layer, keras.layers.BatchNormalization):
      yield from (layer.moving_mean, layer.moving_variance)
    else:
      yield from getattr(layer, "statistics", ())


def load(config, spec, assets, task, max_length):
  """Returns the `Model` that `config` names, with a fresh head, in the current strategy's scope.

  Args:
    config: gives preprocessor, pooling, image size, what is read of long texts, whether texts come in pairs, and what
      the recipe's head reads.
    spec: the `BackboneSpec` of --backbone.
    assets: `Assets`.
    task: the fitted `Task`.
    max_length: tokens of a text; 0 keeps the backbone's limit.

  Raises:
    UserError: `max_length` is more than the backbone reads.
  """
  if task.per_token:
    # A mean is made of the sequence, which is what words need; they are found in it by the module's own vocabulary.
    spec = dataclasses.replace(spec, preprocessor="", pooling="mean")
  backbone = backbones.load(
    spec,
    assets,
    preprocessor=config.preprocessor,
    pooling=config.pooling,
    image_size=config.image_size,
    pixels=config.pixels,
  )
  if task.per_token and backbone.modality == "text":
    backbone = token_features.read_words(backbone)
  if config.long_text != "head" and backbone.modality == "text":
    backbone = long_text.read_long(backbone, config.long_text, config.max_windows)
  if config.text_pair_column and backbone.modality == "text":
    backbone = text_pairs.read_pairs(backbone, config.pair_encoding)
  if max_length and backbone.modality == "text" and backbone.preprocess.limit:
    if max_length > backbone.preprocess.limit:
      raise UserError(f"--max_length={max_length}, but {spec.name} reads at most {backbone.preprocess.limit} tokens")
    backbone.preprocess.max_length = max_length
  return build(backbone, task, config.recipe in UNIT_LENGTH)


class Trunk(keras.layers.Layer):
  """A network that runs in inference mode whatever the model around it does.

  A functional model hands its own `training` to every layer, over the value that was given when it was built.
  """

  def __init__(self, network):
    super().__init__(name="trunk")
    self.network = network

  def call(self, inputs):
    """Returns the network's outputs, without dropout, with moving statistics."""
    return self.network(inputs, training=False)


def lowest_active(model, phase):
  """Returns the name of the lowest stage that runs in training mode in a phase."""
  if phase.bn == "train" and model.statistics:
    return next(iter(model.stages))
  return next(stage for stage in model.stages if stage in phase.train_stages)


def training_network(model, phase, top=None):
  """Returns the `keras.Model` to fit: backbone inputs -> logits, with the stages below `lowest_active` as a trunk that
  always runs in inference mode. `top`, features to what is fitted, may stand in place of the head.

  A SavedModel is one layer and cannot be cut; it runs in inference mode as a whole while none of it trains. Nor can a
  native network where one of its layers holds stages from both sides: then all of it runs in training mode.
  """
  lowest, backbone = lowest_active(model, phase), model.backbone
  if not backbone.can_split(lowest):
    return keras.Model(backbone.network.input, top(model.features.output)) if top else model.network
  trunk, tail = backbone.split(lowest)
  outputs = tail(Trunk(trunk)(backbone.network.input))
  above = top(outputs["features"]) if top else token_features.head_on(model.head, outputs)
  return keras.Model(backbone.network.input, above, name="trunk_tail_head")


def inference_batch(backbone):
  """Returns how many examples fit in a forward pass without gradients, at least."""
  most = backbone.preprocess.max_windows
  return INFERENCE_BATCH if most == 1 else max(1, INFERENCE_TOKENS // (most * backbone.preprocess.max_length))


def predict(network, backbone, inputs, batch_size, verbose=0, lengths=None):
  """Returns `network`'s output for raw inputs, float32 [n, ..], in the order of the inputs, each counted once.

  Args:
    network: `keras.Model` on the backbone's inputs with one output tensor.
    backbone: gives the preprocessing.
    inputs: object array [n] of `Examples.inputs`.
    batch_size: global batch; divisible by the number of devices.
    verbose: Keras progress bar, 0 or 1.
    lengths: `pipeline.token_counts` of the inputs, where they are known.
  """
  dataset, positions = pipeline.for_inference(inputs, backbone.preprocess, backbone.modality, batch_size, lengths)
  return pipeline.restore(network.predict(dataset, verbose=verbose), positions)


def checksums(stages):
  """Returns {stage: [sha256 hex of each variable's bytes]}."""
  return {name: [_checksum(variable) for variable in variables] for name, variables in stages.items()}


def fingerprint(stages):
  """Returns one sha256 hex over the variables of `stages`, in order: the identity of a trunk's weights."""
  return hashlib.sha256("".join(sum(checksums(stages).values(), [])).encode()).hexdigest()


def replicas_agree(variable):
  """Whether a variable is the same, to the bit, on every device of this process."""
  value = variable.value if isinstance(variable, keras.Variable) else variable
  copies = value.values if isinstance(value, tf.distribute.DistributedValues) else ()
  return len({_checksum(copy) for copy in copies}) <= 1


def _checksum(variable):
  return hashlib.sha256(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes()).hexdigest()
