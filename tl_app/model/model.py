"""Backbone and head as one network."""

import dataclasses

import keras

from tl_app import backbones
from tl_app.backbones import long_text, text_pairs, token_features
from tl_app.backbones.backbone import Backbone
from tl_app.data import modalities
from tl_app.errors import UserError
from tl_app.model import heads
from tl_app.model.graphs import head_on
from tl_app.recipes.recipes import HEAD, UNIT_LENGTH
from tl_app.tasks.task import Task


@dataclasses.dataclass
class Model:
  """What is trained, evaluated and exported.

  Attributes:
    backbone: the `Backbone`.
    head: `keras.Model`, features [batch, feature_size] -> logits [batch, outputs].
    features: `keras.Model`, backbone inputs -> features [batch, feature_size]; [batch, positions, feature_size] for a
      task that answers per token.
    network: `keras.Model`, backbone inputs -> logits; shares every variable with the others.
    task: the `Task`: what the logits mean.
    can_train: ids of the variables that a gradient may change; moving statistics and the head's scale are not.
    statistics: ids of the moving statistics of the backbone's BatchNormalization.
  """

  backbone: Backbone
  head: keras.Model
  features: keras.Model
  network: keras.Model
  task: Task
  can_train: frozenset[int]
  statistics: frozenset[int]

  @property
  def stages(self) -> dict[str, list[keras.Variable]]:
    """Ordered dict, stage name -> variables: the stages of the backbone, then the head."""
    return {**self.backbone.stages, HEAD: list(self.head.variables)}


def build(backbone: Backbone, task: Task, l2_normalized: bool = False) -> Model:
  """Builds the `Model` of a backbone and a fresh head.

  Args:
    backbone: the `Backbone`.
    task: the fitted `Task`.
    l2_normalized: as in `heads.linear`.
  """
  head = heads.linear(backbone.feature_size, len(task.names), l2_normalized)
  features = keras.Model(backbone.network.input, backbone.network.output["features"], name="features")
  network = keras.Model(backbone.network.input, head_on(head, backbone.network.output), name="network")
  can_train = frozenset(id(variable) for variable in network.trainable_variables)
  statistics = frozenset(id(variable) for variable in backbone.moving_statistics)
  return Model(backbone, head, features, network, task, can_train, statistics)


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
  has_tokens = modalities.of(backbone.modality).varies_in_length
  if task.per_token and has_tokens:
    backbone = token_features.read_words(backbone)
  if config.long_text != "head" and has_tokens:
    backbone = long_text.read_long(backbone, config.long_text, config.max_windows)
  if config.text_pair_column and has_tokens:
    backbone = text_pairs.read_pairs(backbone, config.pair_encoding)
  if max_length and has_tokens and backbone.preprocess.limit:
    if max_length > backbone.preprocess.limit:
      raise UserError(f"--max_length={max_length}, but {spec.name} reads at most {backbone.preprocess.limit} tokens")
    backbone.preprocess.max_length = max_length
  return build(backbone, task, config.recipe in UNIT_LENGTH)
