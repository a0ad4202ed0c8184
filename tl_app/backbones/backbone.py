"""`Backbone`: the one face of every pretrained network, opaque or native."""

import dataclasses
import math
import typing

if typing.TYPE_CHECKING:
  import keras

  from tl_app.backbones.spec import BackboneSpec


@dataclasses.dataclass
class Backbone:
  """A loaded pretrained network.

  Attributes:
    spec: the record it was loaded from.
    preprocess: callable, string tensor [batch] (texts, or encoded images) -> `network` inputs; pure TensorFlow ops, so
      training, evaluation and export share it. A `tf.Module`, so that its tables and assets are saved with the export.
    network: `keras.Model` from model inputs to a dict of float32 tensors: "pooled" [batch, feature_size], and
      where the network gives them "sequence" [batch, length, width] (texts) or "map" [batch, h, w, channels] (images).
    stages: ordered dict, stage name -> list of `keras.Variable`, from the input upwards. Every variable of `network`
      is in exactly one stage.
    feature_size: width of "pooled".
    notes: lines worth telling the user (how stages were found, what the module cannot do).
    width: of the network's own pooled output, where "pooled" is made of several.
    identity: what else than its variables, kind and pooling tells it from another network: what it does to its inputs
      first, and what of its layers is no weight.
    pairs: whether `preprocess` takes pairs of texts, string [batch, 2].
  """

  spec: "BackboneSpec"
  preprocess: typing.Callable
  network: "keras.Model"
  stages: dict
  feature_size: int
  notes: list = dataclasses.field(default_factory=list)
  width: int = 0
  identity: str = ""
  pairs: bool = False

  def __post_init__(self):
    self.width = self.width or self.feature_size

  @property
  def modality(self):
    """ "text" or "image"."""
    return self.spec.modality


def parameters(variables):
  """Returns the number of weights in `variables`."""
  return sum(math.prod(variable.shape) for variable in variables)
