"""The step policy: the precision of fine-tuning steps, and whether XLA compiles them. It is given, or measured here."""

import contextlib
import dataclasses
import itertools
import logging
import time
import typing
from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

from tl_app.backbones import keras_internals
from tl_app.backbones.float32_layers import L2_NORMALIZED, L2_NORMALIZED_FEATURES, PER_TOKEN
from tl_app.backbones.weights import values
from tl_app.compute.devices import Devices
from tl_app.config.groups import MachineConfig
from tl_app.data import modalities
from tl_app.preprocessing import text
from tl_app.terminal import progress

log = logging.getLogger(__name__)

FLOAT32 = "float32"
# Layers kept in float32: the wrapper of the head per token, the L2 normalisation that takes the head's place, and the
# final L2 normalisation of the backbone.
FLOAT32_LAYERS = (PER_TOKEN, L2_NORMALIZED, L2_NORMALIZED_FEATURES)
# Smallest number of steps for which policies are measured; tracing and compiling them takes time.
MIN_STEPS = 500
# Smallest remaining time of --max_minutes for which policies are measured, in seconds.
MIN_SECONDS = 600
# Batches of a measurement, and rounds over the same batches; the first round of each policy traces.
BATCHES, ROUNDS = 3, 3
# Smallest speed-up that replaces the plain policy; with a value near 1 the choice would differ from run to run.
MIN_GAIN = 1.25
# Largest relative difference of the mean loss over the measured batches.
LOSS_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class StepPolicy:
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


PLAIN = StepPolicy()


class Steps(typing.Protocol):
  """Training steps that can be compiled for a policy; see `training.compiling.PhaseSteps`."""

  @property
  def network(self) -> keras.Model:
    """The model to fit."""
    ...

  def compile(self, policy: StepPolicy) -> None:
    """Compiles `network` for the policy."""
    ...


def warn_if_slow(config: MachineConfig, backbone) -> None:
  """Warns if --jit=on makes XLA compile very often."""
  if config.jit == "on" and modalities.of(backbone.modality).varies_in_length and text.multiple() == 1:
    log.warning("--jit=on: XLA compiles again for each length of a batch, and on a CPU batches have many lengths")


def candidates(config: MachineConfig, backbone, devices: Devices, token_batches: bool = False) -> list[StepPolicy]:
  """Returns the policies to choose from, the plain one first.

  XLA is not tried on a CPU: a step of MiniLM took as long with it, a step of EfficientNet-Lite0 nine times as long.

  Args:
    config: --precision and --jit.
    backbone: the `Backbone`.
    devices: the `Devices`.
    token_batches: whether --batch_tokens gives nearly every batch its own shape.
  """
  if backbone.keeps_own_precision:
    return [PLAIN]
  precisions, jits = [config.precision], [config.jit == "on"]
  if config.precision == "auto":
    precisions = [FLOAT32, "mixed_bfloat16", *(["mixed_float16"] if devices.has_gpu else [])]
  if config.jit == "auto" and devices.has_gpu and devices.replicas == 1 and not token_batches:
    jits = [False, True]
  return [StepPolicy(*policy) for policy in itertools.product(precisions, jits)]


@contextlib.contextmanager
def computing(network: keras.Model, precision: str) -> Iterator[None]:
  """Makes the layers of `network` compute in `precision` inside the block, except the head and `FLOAT32_LAYERS`.

  A function that is traced inside the block keeps the precision, so trace inference outside of it, or inside a block
  with "float32".

  Args:
    network: the `keras.Model`.
    precision: name of a Keras dtype policy.
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


def choose(policies: list[StepPolicy], steps: Steps, dataset: Iterable, num_steps: int, shapes: int = 1) -> StepPolicy:
  """Returns the policy to train with: the only one, or the fastest one that keeps the loss on the first batches.

  The time in which XLA compiles is included, divided by the number of steps.

  Args:
    policies: candidates, the plain one first.
    steps: the `Steps` of the phase; the variables keep their values.
    dataset: batches of the phase.
    num_steps: number of steps of the phase. With fewer than `MIN_STEPS` nothing is measured.
    shapes: number of shapes that the batches of the phase can have; XLA compiles once per shape.
  """
  if len(policies) == 1 or num_steps < MIN_STEPS:
    return policies[0]
  measured, batches = {}, list(itertools.islice(dataset, BATCHES))
  for policy in policies:
    try:
      seconds, trained, first = measure(policy, steps, batches)
      loss = inference_loss(policy, steps.network, batches) if np.isfinite(trained) else trained
      measured[policy] = (seconds + (first - seconds) * shapes / num_steps if policy.jit else seconds), loss
    except (tf.errors.OpError, ValueError, TypeError, NotImplementedError) as error:
      if policy == policies[0]:
        raise
      log.info("%s is not available here (%s)", policy, str(error).splitlines()[0][:120])
  # The chief's measurements decide.
  choice = Devices(steps.network.distribute_strategy).decided(lambda: policies.index(fastest(measured, policies[0])))
  best = policies[choice]
  for policy, (seconds, loss) in measured.items():
    log.info("%s: %.3f s per step, loss %.4f%s", policy, seconds, loss, "; chosen" if policy == best else "")
  most = progress.about(measured[best][0] * num_steps)
  log.info("at most %s steps of %.3f s, as measured: %s", f"{num_steps:,}", measured[best][0], most)
  return best


def fastest(measured: dict[StepPolicy, tuple[float, float]], plain: StepPolicy) -> StepPolicy:
  """Returns the fastest policy that is `MIN_GAIN` times as fast as the plain one and has the same loss, else the plain.

  Args:
    measured: {policy: (seconds per step, loss)}.
    plain: the plain policy, one of `measured`.
  """
  plain_seconds, plain_loss = measured[plain]
  seconds_of = {
    policy: seconds
    for policy, (seconds, loss) in measured.items()
    if abs(loss - plain_loss) <= LOSS_TOLERANCE * abs(plain_loss) and seconds * MIN_GAIN <= plain_seconds
  }
  return min(seconds_of, key=seconds_of.get) if seconds_of else plain


@contextlib.contextmanager
def trial(policy: StepPolicy, steps: Steps) -> Iterator[None]:
  """Compiles the steps for a policy inside the block; at its end all variables get their previous values."""
  network = steps.network
  before = values(network.variables)
  try:
    with computing(network, policy.precision):
      steps.compile(policy)
      yield
  finally:
    for variable, value in zip(network.variables, before):
      variable.assign(value)


def step(network: keras.Model, batch) -> float:
  """Trains on one batch, (inputs, targets), and returns its loss."""
  # Keras returns the mean since the last reset.
  network.reset_metrics()
  return float(network.train_on_batch(*per_device_share(network, batch), return_dict=True)["loss"])


def per_device_share(network: keras.Model, batch):
  """Returns one device's share of a batch, since `train_on_batch` passes its whole argument to each device."""
  devices = network.distribute_strategy.num_replicas_in_sync
  return tf.nest.map_structure(lambda x: x[: len(x) // devices], batch)


def inference_loss(policy: StepPolicy, network: keras.Model, batches: list) -> float:
  """Returns the mean loss of the compiled `network` without dropout, whose noise would hide the effect of a precision.

  Args:
    policy: the `StepPolicy`.
    network: the compiled `keras.Model`.
    batches: list of (inputs, targets) or (inputs, targets, weights).
  """
  losses = []
  with computing(network, policy.precision):
    for batch in batches:
      x, y, weights = keras.utils.unpack_x_y_sample_weight(per_device_share(network, batch))
      losses.append(float(network.compute_loss(x, y, network(x, training=False), weights, training=False)))
  return float(np.mean(losses))


def measure(policy: StepPolicy, steps: Steps, dataset: Iterable, rounds: int = ROUNDS) -> tuple[float, float, float]:
  """Measures the training steps of a policy.

  Args:
    policy: the `StepPolicy`.
    steps: the `Steps` of the phase; the variables keep their values.
    dataset: batches of the phase.
    rounds: number of rounds over the first `BATCHES` batches.

  Returns:
    (median seconds of a step, mean loss of the first round, seconds of the first step, which traces and compiles).
  """
  losses, seconds = [], []
  batches = list(itertools.islice(dataset, BATCHES))
  with trial(policy, steps):
    for batch in batches * rounds:
      start = time.perf_counter()
      losses.append(step(steps.network, batch))
      seconds.append(time.perf_counter() - start)
  found = float(np.median(seconds[BATCHES:])), float(np.mean(losses[:BATCHES])), seconds[0]
  return tuple(Devices(steps.network.distribute_strategy).decided(lambda: found))


def in_float32(network: keras.Model, function: Callable) -> Callable:
  """Returns a function that calls `function` in float32 while `network` trains in another precision."""

  def compute():
    with computing(network, FLOAT32):
      return function()

  return compute


def _layers(network):
  """Yields the layers whose precision changes: all that compute, except the head and `FLOAT32_LAYERS`."""
  for layer in network.layers:
    if layer.name == "head" and isinstance(layer, keras.Model):
      continue
    # In another precision an embedding would cast its whole table before each lookup.
    skipped = (keras.Model, keras.layers.Embedding)
    for inner in keras_internals.flat_layers(layer):
      if isinstance(inner, skipped) or inner.name in FLOAT32_LAYERS:
        continue
      if inner.dtype_policy.name in (FLOAT32, "mixed_bfloat16", "mixed_float16"):
        yield inner
