"""Frozen networks on a CPU: by TensorFlow with constant weights, or by OpenVINO where that pays and agrees."""

import contextlib
import importlib.util
import logging
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones import keras_internals
from tl_app.data import modalities
from tl_app.errors import UserError
from tl_app.model import heads

log = logging.getLogger(__name__)

EXTRA = "pip install 'tl_app[openvino]'"
# Conversion and comparison of EfficientNet-Lite0 took 4 s on 2 cores, and an image 0.7 ms less than by TensorFlow with
# constant weights: fewer than this gain nothing worth having.
LEAST_EXAMPLES = 5000
# Compared before the rest is computed.
SAMPLE = 64
# Of the deviation that the head divides features by. On 192 flower photographs EfficientNet-Lite0's differ by 5e-5, and
# logits of a head fitted to them by 2e-5: they and exports are held to 1e-4. The feature cache, whose limit is 1e-4 of
# the largest number, several deviations, keeps both engines' features under one key.
TOLERANCE = 2e-4
# Cores are shared with the threads that read and prepare the next batches: none is taken for itself.
OPTIONS = {"ENABLE_CPU_PINNING": False}


# Constants of a graph of more bytes would come near the limit of a serialised one, 2 GB.
FOLDED_BYTES = 2**29


class Refused(Exception):
  """OpenVINO cannot stand in for TensorFlow; the message says why."""


def is_candidate(choice, modality, num_devices):
  """Whether OpenVINO may compute frozen networks here.

  Of texts "auto" leaves them to TensorFlow: MiniLM took OpenVINO 1.1 times as long in float32.
  """
  if choice == "auto":
    gpu = bool(tf.config.list_logical_devices("GPU"))
    return modalities.of(modality).prefers_openvino and num_devices == 1 and not gpu and _is_installed()
  return choice == "openvino"


def _is_installed():
  return importlib.util.find_spec("openvino") is not None


@contextlib.contextmanager
def computing(network, predict, choice, modality, num_devices):
  """Gives a function, int [n] of examples -> `network`'s output for them, float32 [n, ..], for the block.

  With "auto" OpenVINO computes from the call on by which `LEAST_EXAMPLES` are asked for, unless the network cannot be
  converted or disagrees with TensorFlow's on some of them; with "openvino" it computes all, or the run stops. At the
  end the log says how many each has computed.

  Args:
    network: frozen `keras.Model` with one output tensor, in inference mode.
    predict: function, (what has `predict` as a `keras.Model`, int [n]) -> float32 [n, ..].
    choice: of --frozen_engine.
    modality: name of the `Modality` of the inputs.
    num_devices: of the strategy.

  Raises:
    UserError: "openvino" cannot be had for this network. The function it gives raises it too.
  """
  engine = _Engine(plain(network, num_devices), network, predict, choice, is_candidate(choice, modality, num_devices))
  yield engine
  done = [f"{count:,} by {name}" for name, count in engine.counts.items() if count]
  if done:
    log.info("frozen features computed: %s", ", ".join(done))


class _Engine:
  """The function that `computing` gives.

  Attributes:
    counts: {engine: examples that it has computed}.
  """

  def __init__(self, plain, network, predict, choice, candidate):
    self.counts = {"TensorFlow": 0, "OpenVINO": 0}
    self._plain, self._network, self._predict, self._choice = plain, network, predict, choice
    self._candidate, self._converted = candidate, None

  def __call__(self, indices):
    asked = sum(self.counts.values()) + len(indices)
    if self._candidate and (self._choice == "openvino" or asked >= LEAST_EXAMPLES):
      self._convert(indices)
    self.counts["OpenVINO" if self._converted else "TensorFlow"] += len(indices)
    return self._predict(self._converted or self._plain, indices)

  def _convert(self, indices):
    start, self._candidate = time.perf_counter(), False
    sample = indices[np.linspace(0, len(indices) - 1, min(SAMPLE, len(indices))).astype(int)]
    try:
      converted = convert(self._network)
      found = difference(self._predict(converted, sample), self._predict(self._plain, sample))
      if not found <= TOLERANCE:
        raise Refused(
          f"OpenVINO's differ from TensorFlow's by {found:.1g} of their deviation; the limit is {TOLERANCE:g}"
        )
    except (Refused, RuntimeError, ValueError) as error:
      if self._choice == "openvino":
        raise UserError(f"--frozen_engine=openvino: {_reason(error)}; leave the flag out") from None
      log.info("TensorFlow computes frozen features: %s", _reason(error))
      return
    self._converted = converted
    log.info(
      "OpenVINO computes frozen features: they differ from TensorFlow's by at most %.1g of their deviation on %d "
      "examples; converted and compared in %.1f s",
      *(found, len(sample), time.perf_counter() - start),
    )


def _reason(error):
  """Returns one line of what OpenVINO says, without the places in its source."""
  lines = [line for line in str(error).splitlines() if not line.startswith(("Exception from", "Check '"))]
  return " ".join(" ".join(lines).split())[:200]


def difference(features, exact):
  """Returns the largest difference of two float arrays [n, .., width], by what the head divides `exact` by."""
  return float(np.abs(features - exact).max() / heads.deviation(exact.reshape(-1, exact.shape[-1])))


class _Predicts:
  """What has `predict` and `predict_on_batch` as a `keras.Model` has them."""

  def predict(self, dataset, verbose=0):
    """Returns float32 [n, ..] of a dataset of batches of the network's inputs."""
    bar = keras.utils.Progbar(int(dataset.cardinality()), verbose=verbose)
    outputs = []
    for batch in dataset:
      outputs.append(self.predict_on_batch(batch))
      bar.add(1)
    return np.concatenate(outputs)


class Folded(_Predicts):
  """A network whose weights are constants of its graph.

  TensorFlow's own optimizer then multiplies the scale of a BatchNormalization into the convolution below it and runs
  both, and the activation, as one.
  """

  def __init__(self, network):
    weights = [[v.numpy() for v in part] for part in (network.trainable_variables, network.non_trainable_variables)]
    signature = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), network.input)

    @tf.function(input_signature=[signature])
    def infer(batch):
      constants = [[tf.constant(value) for value in part] for part in weights]
      return network.stateless_call(*constants, batch, training=False)[0]

    self._function = infer

  def predict_on_batch(self, batch):
    """Returns float32 [batch, ..] of a batch of the network's inputs."""
    return self._function(batch).numpy()


def plain(network, num_devices):
  """Returns what computes a frozen `keras.Model` by TensorFlow: its `fold`, or itself on a GPU or several devices."""
  return fold(network) if num_devices == 1 and not tf.config.list_logical_devices("GPU") else network


def fold(network):
  """Returns the `Folded` of a frozen `keras.Model`, or itself where that gains nothing: it has no BatchNormalization.

  Of EfficientNet-Lite0 features differ by 2e-5 of their deviation, and take three quarters of the time on 2 cores.
  """
  normalised = any(isinstance(layer, keras.layers.BatchNormalization) for layer in keras_internals.flat_layers(network))
  small = sum(4 * int(np.prod(v.shape)) for v in network.variables) < FOLDED_BYTES
  return Folded(network) if normalised and small else network


class Converted(_Predicts):
  """A network as OpenVINO has read it."""

  def __init__(self, core, model, precision):
    self._core, self._model, self._precision, self._request = core, model, precision, None
    self._names = {name for tensor in model.inputs for name in tensor.names}

  def predict_on_batch(self, batch):
    """Returns float32 [batch, ..] of a batch of the network's inputs."""
    named = {_name(i): tensor.numpy() for i, tensor in enumerate(tf.nest.flatten(batch))}
    tensors = {name: tensor for name, tensor in named.items() if name in self._names}
    self._request = self._request or self._compile(tensors)
    return self._request.infer(tensors)[0].copy()

  def _compile(self, tensors):
    # Batches of images have one shape; known beforehand, EfficientNet-Lite0 takes a fifth less time.
    if any(tensor.ndim == 4 for tensor in tensors.values()):
      self._model.reshape({name: tensor.shape for name, tensor in tensors.items()})
    options = OPTIONS | {"INFERENCE_PRECISION_HINT": self._precision}
    return self._core.compile_model(self._model, "CPU", options).create_infer_request()


def convert(network, precision="f32"):
  """Returns the `Converted` of a `keras.Model` with one output tensor; `precision` is OpenVINO's name, "bf16" or "f32".

  Raises:
    Refused: the network cannot be converted, or OpenVINO cannot be imported.
  """
  # Through `openvino.convert_model`, and by the bare import of it, the package reports over the network that it is
  # used, unless this one is absent; reading a SavedModel needs neither.
  sys.modules.setdefault("openvino_telemetry", None)
  try:
    import openvino

    with tempfile.TemporaryDirectory() as scratch:
      module = _Module(network)
      tf.saved_model.save(module, scratch, signatures=module.serve)
      core = openvino.Core()
      return Converted(core, core.read_model(scratch), precision)
  except (ImportError, RuntimeError, ValueError, TypeError, AssertionError, OSError, tf.errors.OpError) as error:
    raise Refused(f"OpenVINO cannot convert the network ({_reason(error)})") from None


class _Module(tf.Module):
  """What is saved of a network: its inference, from its flat inputs."""

  def __init__(self, network):
    super().__init__()
    self._variables = [variable.value for variable in network.variables]
    inputs = tf.nest.flatten(network.input)

    @tf.function(input_signature=[tf.TensorSpec(x.shape, x.dtype, name=_name(i)) for i, x in enumerate(inputs)])
    def serve(*tensors):
      return {"outputs": network(tf.nest.pack_sequence_as(network.input, tensors), training=False)}

    self.serve = serve


def _name(position):
  return f"input_{position}"
