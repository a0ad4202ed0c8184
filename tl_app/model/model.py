"""Backbone and head as one network."""

import dataclasses
from collections.abc import Collection

import keras

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.backbones import long_text, text_pairs, token_features
from tl_app.backbones.backbone import Backbone
from tl_app.backbones.spec import BackboneSpec
from tl_app.config import Config
from tl_app.config.groups import HeadConfig
from tl_app.data import modalities
from tl_app.errors import UserError
from tl_app.model import heads
from tl_app.model.graphs import head_on
from tl_app.model.ood import OodScore
from tl_app.recipes.phase import HEAD
from tl_app.recipes.recipes import L2_NORMALIZED
from tl_app.tasks.task import Task


@dataclasses.dataclass
class BackboneWithHead:
  """A backbone and what is trained on top of it.

  Attributes:
    backbone: the `Backbone`.
    head: `keras.Model` on outputs of the backbone. Its variables are the stage "head".
    can_train: ids of the variables that a gradient may change; moving statistics and the head's scale are not.
    statistics: ids of the moving statistics of the backbone's BatchNormalization.
  """

  backbone: Backbone
  head: keras.Model
  can_train: frozenset[int]
  statistics: frozenset[int]

  @property
  def stages(self) -> dict[str, list[keras.Variable]]:
    """Ordered dict, stage name -> variables: the stages of the backbone, then the head."""
    return {**self.backbone.stages, HEAD: list(self.head.weights)}


@dataclasses.dataclass
class Model(BackboneWithHead):
  """What is trained on labels, evaluated and exported. The head is features [batch, feature_size] -> logits.

  Attributes:
    features: `keras.Model`, backbone inputs -> features [batch, feature_size]; [batch, positions, feature_size] for a
      task that answers per token.
    network: `keras.Model`, backbone inputs -> logits; shares every variable with the others.
    task: the `Task`: what the logits mean.
    ood: the `OodScore`, or None.
    training_networks: the network of the last phase, see `graphs.training_network`.
  """

  features: keras.Model
  network: keras.Model
  task: Task
  ood: OodScore | None = None
  training_networks: dict[tuple, keras.Model] = dataclasses.field(default_factory=dict)


def build(backbone: Backbone, task: Task, l2_normalized: bool = False, head_config: HeadConfig = heads.LINEAR) -> Model:
  """Builds the `Model` of a backbone and a fresh head.

  Args:
    backbone: the `Backbone`.
    task: the fitted `Task`.
    l2_normalized: as in `heads.build`.
    head_config: layers of the head.
  """
  head = heads.build(backbone.feature_size, len(task.names), head_config, l2_normalized)
  features = keras.Model(backbone.network.input, backbone.network.output["features"], name="features")
  network = keras.Model(backbone.network.input, head_on(head, backbone.network.output), name="network")
  return Model(**_parts(backbone, head, network.trainable_variables), features=features, network=network, task=task)


def pretraining(backbone: Backbone, head: keras.Model, frozen: Collection[keras.Variable] = ()) -> BackboneWithHead:
  """Returns a backbone with the head of an objective of pretraining.

  Args:
    backbone: the `Backbone`.
    head: `keras.Model` on outputs of the backbone, with variables of its own.
    frozen: variables of the backbone that do not train.
  """
  keep = {id(variable) for variable in frozen}
  trainable = [*backbone.network.trainable_variables, *head.trainable_variables]
  return BackboneWithHead(**_parts(backbone, head, [variable for variable in trainable if id(variable) not in keep]))


def _parts(backbone, head, trainable):
  statistics = frozenset(id(variable) for variable in backbone.moving_statistics)
  can_train = frozenset(id(variable) for variable in trainable)
  return {"backbone": backbone, "head": head, "can_train": can_train, "statistics": statistics}


def load(config: Config, spec: BackboneSpec, assets: Assets, task: Task, max_length: int) -> Model:
  """Loads the `Model` of a configuration with a fresh head, in the scope of the current strategy.

  Args:
    config: provides the flags of the backbone, the image size, the reading of long texts and of pairs, the recipe
      and the layers of the head.
    spec: the `BackboneSpec` of --backbone, with its learnt vocabulary.
    assets: `Assets`.
    task: the fitted `Task`.
    max_length: largest number of tokens of a text; 0 keeps the limit of the backbone.

  Raises:
    UserError: `max_length` exceeds the limit of the backbone, or the backbone cannot be loaded.
  """
  if task.per_token:
    # Features per word come from the sequence, as the mean does, and need a tokenizer with a vocabulary of its own.
    spec = dataclasses.replace(spec, preprocessor="", pooling="mean")
  backbone = backbones.load_configured(spec, assets, config)
  if modalities.of(backbone.modality).varies_in_length:
    backbone = _read_texts(backbone, config, task, max_length)
  return build(backbone, task, config.recipe in L2_NORMALIZED, config.head)


def _read_texts(backbone, config, task, max_length):
  """Returns a text backbone that reads words, long texts and pairs as `config` says."""
  if task.per_token:
    backbone = token_features.read_words(backbone)
  if config.long_text != "head":
    backbone = long_text.read_long(backbone, config.long_text, config.max_windows)
  if config.text_pair_column:
    backbone = text_pairs.read_pairs(backbone, config.pair_encoding)
  limit = backbone.preprocess.limit
  if max_length and limit:
    if max_length > limit:
      raise UserError(f"--max_length={max_length}, but {backbone.spec.name} reads at most {limit} tokens")
    backbone.preprocess.max_length = max_length
  return backbone
