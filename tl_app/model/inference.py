"""Forward passes over raw examples."""

import keras
import numpy as np

from tl_app.backbones.backbone import Backbone
from tl_app.data import pipeline
from tl_app.data.examples import Inputs
from tl_app.terminal import progress

# Least number of examples in a forward pass without gradients. Activations are not kept, so more examples fit than in a
# training batch.
INFERENCE_BATCH = 64
# The same in tokens, for texts in windows: 64 texts of 512 tokens.
INFERENCE_TOKENS = 64 * 512


def inference_batch(backbone: Backbone) -> int:
  """Returns how many examples fit at least in a forward pass without gradients."""
  windows = backbone.preprocess.max_windows
  return INFERENCE_BATCH if windows == 1 else max(1, INFERENCE_TOKENS // (windows * backbone.preprocess.max_length))


def predict(
  network: keras.Model,
  backbone: Backbone,
  inputs: Inputs,
  batch_size: int,
  lengths: np.ndarray | None = None,
) -> np.ndarray:
  """Runs a network on raw inputs and counts the examples, see `progress.examples`.

  Args:
    network: `keras.Model` on the backbone's inputs with one output tensor.
    backbone: provides the preprocessing.
    inputs: `Inputs`.
    batch_size: global batch; divisible by the number of devices.
    lengths: `pipeline.token_counts` of the inputs, if they are known.

  Returns:
    float32 [n, ..], in the order of the inputs.
  """
  dataset, positions = pipeline.for_inference(inputs, backbone.preprocess, batch_size, lengths)
  return pipeline.restore(network.predict(dataset, verbose=0, callbacks=[_Counted()]), positions)


class _Counted(keras.callbacks.Callback):
  """Counts the examples of each batch."""

  def on_predict_batch_end(self, batch, logs=None):
    progress.examples_done(len(keras.tree.flatten(logs["outputs"])[0]))
