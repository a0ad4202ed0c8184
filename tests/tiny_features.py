"""Small objects that training and feature extraction take: texts of given lengths, and a network on these lengths."""

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones.backbone import Backbone
from tl_app.backbones.spec import BackboneSpec
from tl_app.data import training_data
from tl_app.data.examples import Examples, Inputs, strings
from tl_app.data.splitting.splits import Splits
from tl_app.features import frozen
from tl_app.model import model as model_lib
from tl_app.preprocessing.base import Preprocess
from tl_app.tasks import SINGLE_LABEL


class Lengths(Preprocess):
  """Gives a text as its length, and counts each letter as a token."""

  def __init__(self, max_length=0):
    super().__init__(name="lengths")
    self.max_length = max_length

  def __call__(self, raw):
    """Returns int32 [batch]."""
    return tf.strings.length(raw)

  def count_tokens(self, texts):
    """Returns int32 [batch]."""
    return tf.strings.length(texts)


def model(max_length=0):
  """Returns a `Model` of two classes on the length of a text: a backbone of one dense layer."""
  inputs, dense = keras.Input((), dtype="int32"), keras.layers.Dense(2)
  network = keras.Model(inputs, {"features": dense(keras.ops.cast(inputs, "float32")[:, None])})
  spec = BackboneSpec("lengths", "kerashub", "lengths", modality="text")
  backbone = Backbone(spec, Lengths(max_length), network, {"dense": dense.variables}, feature_size=2)
  return model_lib.build(backbone, SINGLE_LABEL.with_codec(names=("a", "b")))


def data(lengths, backbone, targets=None):
  """Returns the `TrainingData` of texts that are all in the training split.

  Args:
    lengths: int [1 + copies, n], letters of each text and of its copies.
    backbone: the `Backbone`, which counts the tokens.
    targets: int [n]; None for zeros.
  """
  texts, *copies = (strings("x" * length for length in row) for row in lengths)
  examples = Examples(texts, Inputs.of("text", texts), *[texts] * 3, skipped=[], source="texts")
  none = np.zeros(0, np.int64)
  split = Splits(examples, train=np.arange(len(texts)), validation=none, test=none, notes=[], settings={})
  copied = np.concatenate(copies) if copies else None
  made = training_data.make(
    examples,
    split,
    np.zeros(len(texts), np.int32) if targets is None else np.asarray(targets),
    copies=None if copied is None else (Inputs.of("text", copied), copied),
  )
  return frozen.with_lengths(made, backbone)


class Rows:
  """Stands for the rows of a `Corpus`."""

  def __init__(self, values):
    self._values = np.array(values, object)

  def __len__(self):
    return len(self._values)

  def read(self, positions):
    return self._values[positions]
