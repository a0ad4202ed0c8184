"""In which number format fine-tuning computes, and whether XLA compiles its steps: told, or measured here."""

import contextlib
import dataclasses
import itertools
import logging
import time

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones import keras_internals
from tl_app.backbones.pooling import L2_NORMALIZED_FEATURES
from tl_app.data import modalities
from tl_app.errors import UserError
from tl_app.model import graphs, heads
from tl_app.model.variables import values as values_of
from tl_app.preprocessing import text

log = logging.getLogger(__name__)

FLOAT32 = "float32"
# Layers kept in float32, like the head: the one that puts its outputs per token together, and L2 normalisation.
EXACT = (graphs.PER_TOKEN, heads.L2_NORMALIZED, L2_NORMALIZED_FEATURES)
# Fewer steps do not repay the tracing and compiling of candidates.
LEAST_STEPS = 500
# Nor does less time than this of --max_minutes.
LEAST_SECONDS = 600
# Rounds of the same batches; the first of each candidate traces.
STEPS, ROUNDS = 3, 3
# Below this gain the plain way stays: a measured choice near 1 would differ from run to run.
LEAST_GAIN = 1.25
# Relative; of the mean loss over the measured batches.
LOSS_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class Way:
  """How the steps of a phase are computed.

  Attributes:
    precision: Keras dtype policy of the backbone: "float32", "mixed_bfloat16", "mixed_float16". Variables, the head,
      the loss, and all inference stay float32.
    jit: whether XLA compiles the step.
  """

  precision: str = FLOAT32
  jit: bool = False

  def __str__(self):
    return self.precision + (" with XLA" if self.jit else "")


PLAIN = Way()


def check(config, backbone, num_devices):
  """Raises `UserError` where --precision or --jit cannot be had."""
  if backbone.keeps_own_precision and config.precision not in ("auto", FLOAT32):
    raise UserError(f"--precision={config.precision}: a SavedModel keeps its own precision; leave the flag out")
  if not backbone.compiles_with_xla and config.jit == "on":
    raise UserError("--jit=on: XLA does not compile a SavedModel here; leave the flag out")
  if config.jit == "on" and num_devices > 1:
    raise UserError("--jit=on: XLA compiles no step over several devices here; pass --jit=off or --strategy=single")
  if config.jit == "on" and modalities.of(backbone.modality).varies_in_length and text.multiple() == 1:
    log.warning("--jit=on: XLA compiles anew for each length of a batch, and texts have many on a CPU")


def candidates(config, backbone, gpu, num_devices):
  """Returns the `Way`s to choose from, the plain one first.

  XLA is no candidate on a CPU: MiniLM's step took as long, EfficientNet-Lite0's nine times as long.
  """
  if backbone.keeps_own_precision and not backbone.compiles_with_xla:
    return [PLAIN]
  precisions, jits = [config.precision], [config.jit == "on"]
  if config.precision == "auto":
    precisions = [FLOAT32, "mixed_bfloat16", *(["mixed_float16"] if gpu else [])]
  if config.jit == "auto" and gpu and num_devices == 1 and not config.batch_tokens:
    jits = [False, True]
  return [Way(*way) for way in itertools.product(precisions, jits)]


@contextlib.contextmanager
def computing(network, precision):
  """The layers of `network` compute in `precision` within the block, but for the head and those of `EXACT`.

  What is traced within keeps it: trace inference outside, or within a block of "float32".
  """
  layers = list(_layers(network))
  before = [layer.dtype_policy for layer in layers]
  try:
    for layer in layers:
      layer.dtype_policy = precision
    yield
  finally:
    for layer, policy in zip(layers, before):
      layer.dtype_policy = policy


def _layers(network):
  """Yields what computes, but for the head and those of `EXACT`."""
  for layer in network.layers:
    if layer.name == "head" and isinstance(layer, keras.Model):
      continue
    # Before a look-up in another format an embedding casts its whole table.
    other = (keras.Model, keras.layers.Embedding)
    layers = keras_internals.flat_layers(layer)
    inner = [each for each in layers if not isinstance(each, other) and each.name not in EXACT]
    yield from (each for each in inner if each.dtype_policy.name in (FLOAT32, "mixed_bfloat16", "mixed_float16"))


def choose(ways, network, compile_way, dataset, steps, shapes=1):
  """Returns the `Way` to train in: the only one, or the fastest that keeps the loss, measured on the first batches.

  What XLA takes to compile counts too, shared among the steps.

  Args:
    ways: `Way`s, the plain one first.
    network: `keras.Model` to fit; it is left with the values it has.
    compile_way: function, `Way` -> None, that compiles it.
    dataset: of its batches.
    steps: of the phase: few are not worth a measurement.
    shapes: that the batches of the phase may have: XLA compiles for each.
  """
  if len(ways) == 1 or steps < LEAST_STEPS:
    return ways[0]
  measured, batches = {}, list(itertools.islice(dataset, STEPS))
  for way in ways:
    try:
      seconds, trained, first = measure(way, network, compile_way, batches)
      loss = answered(way, network, batches) if np.isfinite(trained) else trained
      measured[way] = (seconds + (first - seconds) * shapes / steps if way.jit else seconds), loss
    except (tf.errors.OpError, ValueError, TypeError, NotImplementedError) as error:
      if way == ways[0]:
        raise
      log.info("%s: cannot be had here (%s)", way, str(error).splitlines()[0][:120])
  best = fastest(measured, ways[0])
  for way, (seconds, loss) in measured.items():
    log.info("%s: %.3f s a step, loss %.4f%s", way, seconds, loss, "; taken" if way == best else "")
  return best


def fastest(measured, plain):
  """Returns the key of {`Way`: (seconds, loss)} that is at least `LEAST_GAIN` times as fast as `plain` and keeps its
  loss, or `plain`."""
  seconds, loss = measured[plain]
  kept = {
    way: own
    for way, (own, its) in measured.items()
    if abs(its - loss) <= LOSS_TOLERANCE * abs(loss) and own * LEAST_GAIN <= seconds
  }
  return min(kept, key=kept.get) if kept else plain


@contextlib.contextmanager
def trial(way, network, compile_way):
  """Compiles `network` for steps within the block; its variables then have the values they had. Arguments: `choose`."""
  values = values_of(network.variables)
  try:
    with computing(network, way.precision):
      compile_way(way)
      yield
  finally:
    for variable, value in zip(network.variables, values):
      variable.assign(value)


def step(network, batch):
  """Makes a training step on (inputs, targets) and returns its loss, once it is done."""
  # Keras gives means since the last reset.
  network.reset_metrics()
  return float(network.train_on_batch(*share(network, batch), return_dict=True)["loss"])


def share(network, batch):
  """Returns one device's share of a batch: `train_on_batch` gives what it gets to each device, whole."""
  devices = network.distribute_strategy.num_replicas_in_sync
  return tf.nest.map_structure(lambda x: x[: len(x) // devices], batch)


def answered(way, network, batches):
  """Returns the mean loss that the compiled `network` has as it is, and without dropout: what that drops differs from
  format to format, and of the small loss of a head that has converged it is a large part."""
  losses = []
  with computing(network, way.precision):
    for batch in batches:
      x, y, weights = keras.utils.unpack_x_y_sample_weight(share(network, batch))
      losses.append(float(network.compute_loss(x, y, network(x, training=False), weights, training=False)))
  return float(np.mean(losses))


def measure(way, network, compile_way, dataset, rounds=ROUNDS):
  """Returns (median seconds of a step, mean loss of the first round, seconds of the first step, which traces and
  compiles); arguments as of `choose`."""
  losses, seconds = [], []
  batches = list(itertools.islice(dataset, STEPS))
  with trial(way, network, compile_way):
    for batch in batches * rounds:
      start = time.perf_counter()
      losses.append(step(network, batch))
      seconds.append(time.perf_counter() - start)
  return float(np.median(seconds[STEPS:])), float(np.mean(losses[:STEPS])), seconds[0]
