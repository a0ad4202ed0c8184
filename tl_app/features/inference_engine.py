"""Fast inference of frozen networks on a CPU: TensorFlow with constant weights, or OpenVINO."""

import contextlib
import importlib.util
import logging
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones import keras_internals
from tl_app.compute.batch_predictor import BatchPredictor
from tl_app.data import modalities
from tl_app.errors import UserError
from tl_app.model import heads
from tl_app.terminal import progress

log = logging.getLogger(__name__)

# Smallest number of examples for which conversion pays off. For EfficientNet-Lite0 on 2 cores, conversion and
# comparison took 4 s, and OpenVINO saved 0.7 ms per image over TensorFlow with constant weights.
MIN_EXAMPLES = 5000
# Number of examples whose features are compared before OpenVINO is used.
SAMPLE = 64
# Largest difference of the features, in units of the standard deviation by which the head divides them. On 192 flower
# photographs the features of EfficientNet-Lite0 differ by 5e-5, and the logits of a head fitted to them by 2e-5;
# exports may differ by 1e-4. The feature cache allows 1e-4 of the largest feature, which is several standard
# deviations, so both engines share one cache key.
TOLERANCE = 2e-4
# The cores are shared with the threads of the input pipeline, so no thread is pinned to a core.
OPTIONS = {"ENABLE_CPU_PINNING": False}
# Largest size of weights that become constants of a graph; a serialised graph is limited to 2 GB.
FOLDED_BYTES = 2**29


class Predictor(typing.Protocol):
  """A network that predicts; `keras.Model` is one."""

  def predict(self, dataset: tf.data.Dataset, verbose: int = 0, callbacks: Sequence = ()) -> np.ndarray:
    """Returns the outputs, float32 [n, ..], for a dataset of batches of the network's inputs."""
    ...

  def predict_on_batch(self, batch) -> np.ndarray:
    """Returns the outputs, float32 [batch, ..], for one batch of the network's inputs."""
    ...


class Refused(Exception):
  """OpenVINO cannot replace TensorFlow; the message says why."""


def is_candidate(choice: str, modality: str, num_devices: int) -> bool:
  """Returns whether OpenVINO may compute frozen networks.

  With "auto" it does not compute texts: MiniLM took OpenVINO 1.1 times as long as TensorFlow in float32.

  Args:
    choice: value of --frozen_engine.
    modality: name of the `Modality` of the inputs.
    num_devices: number of devices.
  """
  if choice == "auto":
    gpu = bool(tf.config.list_logical_devices("GPU"))
    return modalities.of(modality).prefers_openvino and num_devices == 1 and not gpu and _is_installed()
  return choice == "openvino"


def _is_installed():
  return importlib.util.find_spec("openvino") is not None


@contextlib.contextmanager
def computing(
  network: keras.Model,
  predict: Callable[[Predictor, np.ndarray], np.ndarray],
  choice: str,
  modality: str,
  num_devices: int,
) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
  """Chooses the engine that computes a frozen network inside a `with` block.

  With "auto", OpenVINO takes over when `MIN_EXAMPLES` examples have been requested in total, unless the network cannot
  be converted or its outputs differ from those of TensorFlow. With "openvino" it computes everything, or the run stops.
  If OpenVINO has computed examples, the log says at the end how many each engine has.

  Args:
    network: frozen `keras.Model` with one output tensor, in inference mode.
    predict: function (`Predictor`, int [n] examples) -> outputs, float32 [n, ..].
    choice: value of --frozen_engine.
    modality: name of the `Modality` of the inputs.
    num_devices: number of devices.

  Yields:
    A function from int [n] examples to the outputs of `network`, float32 [n, ..]. It raises `UserError` if `choice` is
    "openvino" and OpenVINO cannot compute this network.
  """
  engine = _Engine(plain(network, num_devices), network, predict, choice, is_candidate(choice, modality, num_devices))
  yield engine
  if engine.counts["OpenVINO"]:
    done = " and ".join(f"{name} for {count:,}" for name, count in engine.counts.items() if count)
    log.info("features were computed by %s examples", done)


class _Engine:
  """The function that `computing` yields.

  Attributes:
    counts: {engine: number of examples that it has computed}.
  """

  def __init__(self, plain, network, predict, choice, candidate):
    self.counts = {"TensorFlow": 0, "OpenVINO": 0}
    self._plain, self._network, self._predict, self._choice = plain, network, predict, choice
    self._candidate, self._converted = candidate, None

  def __call__(self, indices):
    requested = sum(self.counts.values()) + len(indices)
    if self._candidate and (self._choice == "openvino" or requested >= MIN_EXAMPLES):
      self._convert(indices)
    self.counts["OpenVINO" if self._converted else "TensorFlow"] += len(indices)
    return self._predict(self._converted or self._plain, indices)

  def _convert(self, indices):
    start, self._candidate = time.perf_counter(), False
    sample = indices[np.linspace(0, len(indices) - 1, min(SAMPLE, len(indices))).astype(int)]
    try:
      converted = convert(self._network)
      with progress.uncounted():
        largest = difference(self._predict(converted, sample), self._predict(self._plain, sample))
      # Not `>`: the difference may be NaN.
      if not largest <= TOLERANCE:
        raise Refused(
          f"OpenVINO's features differ from TensorFlow's by {largest:.1g} of their standard deviation; the limit is "
          f"{TOLERANCE:g}"
        )
    except (Refused, RuntimeError, ValueError) as error:
      if self._choice == "openvino":
        raise UserError(f"--frozen_engine=openvino: {_reason(error)}; leave the flag out") from None
      log.info("TensorFlow computes frozen features: %s", _reason(error))
      return
    self._converted = converted
    log.info(
      "OpenVINO computes frozen features: they differ from TensorFlow's by at most %.1g of their standard deviation on "
      "%d examples; converted and compared in %.1f s",
      *(largest, len(sample), time.perf_counter() - start),
    )


def _reason(error):
  """Returns an error message of OpenVINO as one line, without references to its source code."""
  lines = [line for line in str(error).splitlines() if not line.startswith(("Exception from", "Check '"))]
  return " ".join(" ".join(lines).split())[:200]


def difference(features: np.ndarray, exact: np.ndarray) -> float:
  """Returns the largest difference of two arrays, in units of the standard deviation by which the head divides `exact`.

  Args:
    features: float [n, .., width].
    exact: float [n, .., width].
  """
  return float(np.abs(features - exact).max() / heads.deviation(exact.reshape(-1, exact.shape[-1])))


class Folded(BatchPredictor):
  """A network whose weights are constants of its graph.

  TensorFlow's graph optimizer then folds BatchNormalization into the convolution below it, and fuses both with the
  activation.
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
    """Returns the outputs, float32 [batch, ..], for one batch of the network's inputs."""
    return self._function(batch).numpy()


def plain(network: keras.Model, num_devices: int) -> Predictor:
  """Returns the `Predictor` of a frozen network in TensorFlow: folded, or itself on a GPU or several devices."""
  return fold(network) if num_devices == 1 and not tf.config.list_logical_devices("GPU") else network


def fold(network: keras.Model) -> Predictor:
  """Returns the `Folded` of a frozen network, or the network itself if it is large or has no BatchNormalization.

  The features of EfficientNet-Lite0 differ by 2e-5 of their standard deviation, and take three quarters of the time on
  2 cores.
  """
  normalised = any(isinstance(layer, keras.layers.BatchNormalization) for layer in keras_internals.flat_layers(network))
  small = sum(4 * int(np.prod(v.shape)) for v in network.variables) < FOLDED_BYTES
  return Folded(network) if normalised and small else network


class Converted(BatchPredictor):
  """A network in OpenVINO."""

  def __init__(self, core, model, precision):
    self._core, self._model, self._precision, self._request = core, model, precision, None
    self._names = {name for tensor in model.inputs for name in tensor.names}

  def predict_on_batch(self, batch):
    """Returns the outputs, float32 [batch, ..], for one batch of the network's inputs."""
    named = {_name(i): tensor.numpy() for i, tensor in enumerate(tf.nest.flatten(batch))}
    tensors = {name: tensor for name, tensor in named.items() if name in self._names}
    self._request = self._request or self._compile(tensors)
    return self._request.infer(tensors)[0].copy()

  def _compile(self, tensors):
    # All batches of images have one shape. If it is fixed, EfficientNet-Lite0 takes a fifth less time.
    if any(tensor.ndim == 4 for tensor in tensors.values()):
      self._model.reshape({name: tensor.shape for name, tensor in tensors.items()})
    options = OPTIONS | {"INFERENCE_PRECISION_HINT": self._precision}
    return self._core.compile_model(self._model, "CPU", options).create_infer_request()


def convert(network: keras.Model, precision: str = "f32") -> Converted:
  """Converts a network to OpenVINO.

  Args:
    network: `keras.Model` with one output tensor.
    precision: "f32" or "bf16".

  Raises:
    Refused: the network cannot be converted, or OpenVINO cannot be imported.
  """
  # With `openvino_telemetry`, importing OpenVINO and `openvino.convert_model` send usage data over the network. Reading
  # a SavedModel does not need that package.
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
  """The SavedModel of a network: inference on its flattened inputs."""

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
