"""The table of backbones: one frozen record each. Reading it needs no TensorFlow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
  """What must be known of a backbone before it is loaded.

  Attributes:
    name: "family.source" for a table record; for a handle, the handle as the user gave it.
    kind: which loader reads it: "saved_model", "kerashub", "applications", "bert_safetensors", "efficientnet_lite_torch".
    handle: what `assets` fetches, or the class name in keras.applications.
    modality: "text", "image", or "" where only the loaded module tells.
    preprocessor: handle of the text preprocessing twin; "" if there is none.
    pooling: "mean", "cls" or "pooler".
    image_size: default height and width in pixels; 0 for text, or where the module tells.
    value_range: (low, high) of the pixels that the network takes.
    max_length: longest input in tokens; 0 for images, or where the module tells.
    stages: ordered ((stage name, regular expression over variable paths), ..); () where a rule finds them.
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
  image_size: int = 0
  value_range: tuple = (0.0, 1.0)
  max_length: int = 0
  stages: tuple = ()
  licence: str = "unknown"
  parameters: int = 0
  note: str = ""
