"""--batch_size=auto: how many examples of a step, and of a forward pass, memory holds at a time."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tl_app.compute import memory, precision
from tl_app.compute.devices import Devices
from tl_app.config import AUTO
from tl_app.data import pipeline
from tl_app.data.training_data import TrainingData
from tl_app.errors import UserError
from tl_app.features.frozen import Features
from tl_app.model import stages
from tl_app.model.model import Model
from tl_app.recipes.phase import Phase
from tl_app.training import train_steps
from tl_app.training.compiling import PhaseSteps
from tl_app.training.objectives import of

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class BatchSize:
  """How many examples are computed at a time.

  Attributes:
    inference: global number of examples per forward pass without gradients.
    microbatches: equal parts in which a batch of fine-tuning is computed.
    longest: positions of the examples for which that number was measured.
    notes: {"forward_pass", "training_step"}: what was measured and why; empty without --batch_size=auto.
  """

  inference: int
  microbatches: int = 1
  longest: int = 1
  notes: dict = dataclasses.field(default_factory=dict)

  def applied(self, phases: Sequence[Phase]) -> list[Phase]:
    """Returns the phases with the microbatches that memory holds."""
    changes = {"microbatches": self.microbatches, "longest": self.longest}
    return [phase.replace(**changes) if phase.trains_backbone else phase for phase in phases]


def choose(config, phases: Sequence[Phase], features: Features) -> BatchSize:
  """Returns the `BatchSize` of a run; without --batch_size=auto nothing is measured.

  The measurement takes the longest texts, or images of full size, in the phase that trains most. All phases that train
  the backbone get its number of microbatches; batches of shorter texts are divided into fewer.

  Args:
    config: the `Config`.
    phases: of the run.
    features: the `Features` of the run, with the batch size to be used if memory holds it.

  Raises:
    UserError: memory does not hold one example for each device.
  """
  if config.batch_size != AUTO:
    return BatchSize(features.batch_size)
  data, model, devices = features.data, features.model, features.devices
  with devices.scope(), features.clock("train"):
    whole = features.batch_size
    inference, why = _largest(whole, "a forward pass", _forward(data, model, whole), devices)
    notes = {"forward_pass": {"examples": inference, "why": why}}
    trained = [phase for phase in phases if phase.trains_backbone]
    if not trained:
      return BatchSize(inference, notes=notes)
    heaviest = max(trained, key=lambda phase: _trained(phase, model))
    whole = heaviest.inputs.batch_size
    inputs, targets = _largest_batch(data, model, 2 * whole)
    with _training(config, heaviest, features, inputs, targets) as step:
      examples, why = _largest(whole, "a training step", step, devices)
    longest = int(train_steps.positions(model.network, inputs))
    notes["training_step"] = {"examples": examples, "of": whole, "positions": longest, "why": why}
    return BatchSize(inference, whole // examples, longest, notes)


def sizes(batch_size: int, devices: int) -> list[int]:
  """Returns the sizes of equal parts of a batch, descending, each at most half of the one before.

  Each device's share of a part is a whole number.
  """
  share = batch_size // devices
  shares = [share]
  for size in range(share // 2, 0, -1):
    if share % size == 0 and 2 * size <= shares[-1]:
      shares.append(size)
  return [size * devices for size in shares]


def _largest(whole, what, step: Callable[[int], object], devices: Devices):
  """Returns (examples at a time, why); `step` is a function of their number."""
  tried = sizes(whole, devices.replicas)
  if devices.has_gpu:
    examples = memory.back_off(tried, step)
    why = "all of them fit" if examples == whole else f"{_above(tried, examples)} do not fit into the GPU's memory"
  else:
    # The first one traces.
    step(tried[-1])
    start, free = memory.resident(), memory.available()
    examples, taken = memory.estimate(tried, lambda size: memory.peak(lambda: step(size)), start, free)
    next_one = examples if examples == whole else _above(tried, examples)
    needed, limit = _gigabytes(taken[next_one] - start), _gigabytes(memory.SHARE * free)
    why = f"{next_one} take about {needed} of {limit}, {memory.SHARE:.0%} of the free memory"
  if examples is None:
    raise UserError(
      f"--batch_size=auto: memory does not hold {tried[-1]} examples of {what} at a time: {why}; lower --max_length or "
      "--image_size, or use a smaller backbone"
    )
  log.info("--batch_size=auto: %s of %d examples, %d at a time: %s", what, whole, examples, why)
  return examples, why


def _above(tried, examples):
  """Returns the smallest of `tried` that did not fit."""
  return tried[-1] if examples is None else tried[tried.index(examples) - 1]


def _gigabytes(size):
  return f"{max(0, size) / 1e9:.2f} GB"


def _trained(phase, model):
  """Returns (stages down to the lowest that trains, parameters that train), which decide the memory of a step."""
  selected, names = stages.selected(model, phase), list(model.stages)
  lowest = min(names.index(name) for name, variables in selected.items() if variables)
  return len(names) - lowest, sum(int(np.prod(v.shape)) for variables in selected.values() for v in variables)


def _largest_batch(data: TrainingData, model: Model, count):
  """Returns (inputs, targets) of `count` training examples: the longest texts, the longest last, or any images."""
  rows, lengths = data.train_rows.ravel(), None
  if data.lengths is not None:
    lengths = data.lengths[rows]
    rows, lengths = rows[np.argsort(lengths, kind="stable")[-count:]], np.sort(lengths)[-count:]
  # A small data set is repeated.
  chosen = np.resize(np.arange(len(rows))[::-1], count)
  dataset, positions = pipeline.for_inference(
    *(data.inputs[rows[chosen]], model.backbone.preprocess, count),
    None if lengths is None else lengths[chosen],
  )
  return next(iter(dataset)), data.targets[rows[chosen]][positions]


def _forward(data, model, whole):
  """Returns a function, examples at a time, that runs a forward pass of so many."""
  inputs, _ = _largest_batch(data, model, whole)
  return lambda size: model.network.predict(_last(inputs, size), verbose=0)


@contextlib.contextmanager
def _training(config, phase, features, inputs, targets) -> Iterator[Callable[[int], object]]:
  """Returns a context with a function, examples at a time, that makes a training step of two such microbatches.

  More microbatches take no more memory: each is freed before the next one.
  """
  model = features.model
  stages.set_trainable(model, phase)
  batch = inputs, model.task.codec.as_probabilities(targets) if phase.inputs.mixes else targets
  network = train_steps.microbatched(of(phase).network(model, phase), 2)
  policy = precision.candidates(config.machine, model.backbone, features.devices, bool(config.batch_tokens))[0]
  with precision.trial(policy, PhaseSteps(network, phase, model, features.data.train_targets)):
    yield lambda size: network.fit(_last(batch, 2 * size), verbose=0, shuffle=False)


def _last(batch, count):
  """Returns a dataset of one batch, the last `count` examples of `batch`; the graph of a step takes any number."""
  batch = tf.nest.map_structure(tf.convert_to_tensor, batch)
  return tf.data.Dataset.from_tensors(count).map(lambda n: tf.nest.map_structure(lambda x: x[-n:], batch))
