"""`Backbone`: the interface of every pretrained network."""

import dataclasses
import math
import pathlib
import re
import typing
from collections.abc import Callable, Iterable

if typing.TYPE_CHECKING:
  import keras

  from tl_app.assets.locks import Download
  from tl_app.backbones.spec import BackboneSpec
  from tl_app.preprocessing.base import Preprocess

# Name of a table of token embeddings: not that of positions, distances or segments, nor a projection of embeddings.
_TOKEN_TABLE = re.compile(r"^(?!.*(posit|relative|\brel_|segment|type|proj)).*embed", re.IGNORECASE)


@dataclasses.dataclass
class Backbone:
  """A loaded pretrained network: a functional Keras model that can be split between its stages.

  The class attributes are capabilities. Code outside this package asks for these, never for the kind of network.

  Attributes:
    spec: the record it was loaded from.
    preprocess: callable, string tensor [batch] (texts, or encoded images) -> `network` inputs; pure TensorFlow ops, so
      training, evaluation and export share it. A `tf.Module`, so that its tables and assets are saved with the export.
    network: `keras.Model` from model inputs to a dict of float32 tensors: "features" [batch, feature_size], and if the
      network has them "sequence" [batch, length, width] (texts) or "map" [batch, height, width, channels] (images). A
      backbone with features per token has "features" [batch, positions, width] and "mask" [batch, positions], 1 at
      each token.
    stages: ordered dict, stage name -> list of `keras.Variable`, from the input upwards. Every variable of `network`
      is in exactly one stage.
    feature_size: width of "features".
    notes: lines for the user: how the stages were found, what the module cannot do.
    effects: the operations of the network that do something outside it, which --trust_backbone has let through, or "".
    width: width of the network's own features, if `feature_size` combines several of them.
    identity: what distinguishes the network from another one besides its variables, kind and pooling: how it rescales
      its inputs, and those of its layers that have no weights.
    pairs: whether `preprocess` takes pairs of texts, string [batch, 2].
    save: function that writes the network, with its present weights and its preprocessing, into an empty directory in
      a form that --backbone reads; None if it has none.
    downloads: what was downloaded for it, now or before, with the sha256 of each file.
    tied: variables that `save` can write only with the values they have now.
    single_mode: whether all stages share one training mode. Then BatchNormalization cannot run on batch statistics in
      some stages only.
    has_training_mode: whether the network has a training mode at all (dropout, batch statistics).
    keeps_seeds: whether the random numbers of training come from variables, so that a run that continues gets those of
      an uninterrupted one.
    averages_statistics: whether moving statistics can be averaged over devices.
    keeps_own_precision: whether the number format is fixed, so that --precision has no effect.
    compiles_with_xla: whether XLA can compile the network.
    tracks_assets: whether an export must track the network's layers, because these hold tables or files.
  """

  spec: "BackboneSpec"
  preprocess: "Preprocess"
  network: "keras.Model"
  stages: "dict[str, list[keras.Variable]]"
  feature_size: int
  notes: list[str] = dataclasses.field(default_factory=list)
  effects: str = ""
  width: int = 0
  identity: str = ""
  pairs: bool = False
  save: "Callable[[pathlib.Path], None] | None" = None
  downloads: "list[Download]" = dataclasses.field(default_factory=list)
  tied: "list[keras.Variable]" = dataclasses.field(default_factory=list)

  single_mode: typing.ClassVar[bool] = False
  averages_statistics: typing.ClassVar[bool] = True
  keeps_own_precision: typing.ClassVar[bool] = False
  compiles_with_xla: typing.ClassVar[bool] = True
  tracks_assets: typing.ClassVar[bool] = False

  def __post_init__(self):
    self.width = self.width or self.feature_size

  @property
  def modality(self) -> str:
    """ "text" or "image"."""
    return self.spec.modality

  @property
  def pretrained(self) -> bool:
    """Whether the weights were trained before, by their publisher or in a run; otherwise they are random."""
    return self.spec.pretrained or bool(self.spec.tuned)

  @property
  def has_training_mode(self) -> bool:
    """Whether the network has a training mode at all."""
    return True

  @property
  def keeps_seeds(self) -> bool:
    """Whether the random numbers of training come from variables."""
    return True

  @property
  def moving_statistics(self) -> "list[keras.Variable]":
    """The moving means and variances of the network's BatchNormalization."""
    import keras

    from tl_app.backbones import keras_internals

    layers = keras_internals.flat_layers(self.network, include_self=False)
    found = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [variable for layer in found for variable in (layer.moving_mean, layer.moving_variance)]

  @property
  def token_table(self) -> "keras.Variable | None":
    """The table of token embeddings, [tokens, width of "sequence"]; None if the network has none of this width."""
    if "sequence" not in self.network.output:
      return None
    width = self.network.output["sequence"].shape[-1]
    found = [
      variable
      for variables in self.stages.values()
      for variable in variables
      if len(variable.shape) == 2 and variable.shape[1] == width and _TOKEN_TABLE.search(_own_name(variable))
    ]
    return max(found, key=lambda variable: variable.shape[0], default=None)

  @property
  def token_embedding(self) -> "keras.layers.Embedding | None":
    """The layer that reads the table of token embeddings; None if the network has no such layer of Keras."""
    import keras

    from tl_app.backbones import keras_internals

    layers = keras_internals.flat_layers(self.network, include_self=False)
    found = [layer for layer in layers if isinstance(layer, keras.layers.Embedding) and _TOKEN_TABLE.search(layer.name)]
    return max(found, key=lambda layer: layer.input_dim, default=None)

  @property
  def pools_map(self) -> bool:
    """Whether the features are the mean of "map" over its positions."""
    return "map" in self.network.output and self.spec.pooling == "mean"

  @property
  def has_input_gradient(self) -> bool:
    """Whether the features can be differentiated by the pixels of an image."""
    return self.modality == "image"

  def poolings(self) -> "dict[str, keras.KerasTensor]":
    """Returns {value of --pooling: features} that the outputs for the tokens of a text allow; {} without them."""
    from tl_app.backbones.pooling import pool

    inputs = self.network.input
    if "sequence" not in self.network.output or not isinstance(inputs, dict) or "input_mask" not in inputs:
      return {}
    return {name: pool(self.network.output["sequence"], inputs["input_mask"], name) for name in ("mean", "cls")}

  def can_split(self, stage: str) -> bool:
    """Returns whether the network can be split below `stage`, with at least one stage in the trunk."""
    from tl_app.backbones import native_stages

    return stage in list(self.stages)[1:] and not native_stages.crossing_layer(self.network, self.stages, stage)

  def split(self, stage: str) -> "tuple[keras.Model, keras.Model]":
    """Splits the network below a stage.

    Args:
      stage: name of the lowest stage of the tail.

    Returns:
      (trunk, tail), two models that share the weights: `tail(trunk(inputs))` equals `network(inputs)` to the bit. The
      trunk returns a dict of tensors.

    Raises:
      ValueError: there is no such stage, or the network cannot be split there.
    """
    from tl_app.backbones import native_stages

    return native_stages.split(self.network, self.stages, stage, self.spec.name)

  def set_training_mode(self, on: bool) -> None:
    """Switches the one training mode of a `single_mode` network on or off.

    Raises:
      ValueError: each layer of this network has its own mode.
    """
    raise ValueError(f"{self.spec.name} has a training mode for each layer")

  def cache_facts(self) -> dict[str, str]:
    """Returns what identifies the network in the key of a feature cache, besides its weights and pooling."""
    return {"kind": self.spec.kind, "network": self.identity}


def _own_name(variable):
  """Returns the end of the path of a variable: its layer may be inside of one that embeds positions too."""
  return "/".join(variable.path.split("/")[-2:])


def parameters(variables: "Iterable[keras.Variable]") -> int:
  """Returns the number of weights in `variables`."""
  return sum(math.prod(variable.shape) for variable in variables)
