"""--batch_size=auto: measures how many examples of a training step and of a forward pass fit into memory."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tl_app.compute import memory
from tl_app.compute.devices import Devices
from tl_app.config import AUTO
from tl_app.data import pipeline
from tl_app.data.training_data import TrainingData
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.features.frozen import Features
from tl_app.model import stages
from tl_app.model.model import Model
from tl_app.recipes.phase import Phase
from tl_app.training import precision, train_steps
from tl_app.training.compiling import PhaseSteps
from tl_app.training.objectives import of

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class BatchSize:
  """How many examples are computed at a time.

  Attributes:
    inference: global number of examples per forward pass without gradients.
    microbatches: number of equal parts in which a batch of fine-tuning is computed.
    longest: length in tokens for which `microbatches` was measured; 1 for images.
    notes: {"forward_pass", "training_step"}: what was measured, for plan.json; {} without --batch_size=auto.
  """

  inference: int
  microbatches: int = 1
  longest: int = 1
  notes: dict = dataclasses.field(default_factory=dict)

  def applied(self, phases: Sequence[Phase]) -> list[Phase]:
    """Returns the phases with this number of microbatches in those that train the backbone."""
    changes = {"microbatches": self.microbatches, "longest": self.longest}
    return [phase.replace(**changes) if phase.trains_backbone else phase for phase in phases]


def choose(config, phases: Sequence[Phase], features: Features) -> BatchSize:
  """Returns the `BatchSize` of a run. Without --batch_size=auto nothing is measured.

  The longest texts, or full-size images, are measured in the phase that trains the most stages and parameters. All
  phases that train the backbone get its number of microbatches; batches of shorter texts are divided into fewer.

  Args:
    config: the `Config`.
    phases: the phases of the run.
    features: the `Features` of the run, with the batch size that is used if it fits into memory.

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
  """Returns the possible sizes of microbatches, descending, each at most half of the one before.

  Args:
    batch_size: global number of examples per batch.
    devices: number of devices; each size is a multiple of it.
  """
  share = batch_size // devices
  shares = [share]
  for size in range(share // 2, 0, -1):
    if share % size == 0 and 2 * size <= shares[-1]:
      shares.append(size)
  return [size * devices for size in shares]


def _largest(whole, what, step: Callable[[int], object], devices: Devices):
  """Returns (largest number of examples at a time that fits, reason).

  Args:
    whole: number of examples of the whole batch.
    what: name of the step, for messages.
    step: function of a number of examples, which computes them.
    devices: the `Devices`.
  """
  tried = sizes(whole, devices.replicas)
  if devices.has_gpu:
    examples = memory.back_off(tried, step)
    why = "all of them fit" if examples == whole else f"{_above(tried, examples)} do not fit into the GPU's memory"
  else:
    # The first step traces.
    step(tried[-1])
    start, free = memory.resident(), memory.available()
    examples, taken = memory.estimate(tried, lambda size: memory.peak(lambda: step(size)), start, free)
    next_one = examples if examples == whole else _above(tried, examples)
    needed, limit = _gigabytes(taken[next_one] - start), _gigabytes(memory.SHARE * free)
    why = f"{next_one} take about {needed} of {limit}, {memory.SHARE:.0%} of the free memory"
  if examples is None:
    raise UserError(
      f"--batch_size=auto: memory does not hold {number_of(tried[-1], 'example')} of {what} at a time: {why}; lower "
      "--max_length or --image_size, or use a smaller backbone"
    )
  log.info("--batch_size=auto: %s of %d examples, %d at a time: %s", what, whole, examples, why)
  return examples, why


def _above(tried, examples):
  """Returns the smallest size in `tried` that did not fit."""
  return tried[-1] if examples is None else tried[tried.index(examples) - 1]


def _gigabytes(size):
  return f"{max(0, size) / 1e9:.2f} GB"


def _trained(phase, model):
  """Returns (number of stages down to the lowest trained one, number of trained parameters): they decide the memory."""
  selected, names = stages.selected(model, phase), list(model.stages)
  lowest = min(names.index(name) for name, variables in selected.items() if variables)
  return len(names) - lowest, sum(int(np.prod(v.shape)) for variables in selected.values() for v in variables)


def _largest_batch(data: TrainingData, model: Model, count):
  """Returns (inputs, targets) of `count` training examples: the longest texts, in ascending order, or any images."""
  rows, lengths = data.train_rows.ravel(), None
  if data.lengths is not None:
    lengths = data.lengths[rows]
    rows, lengths = rows[np.argsort(lengths, kind="stable")[-count:]], np.sort(lengths)[-count:]
  # Examples of a small data set are repeated.
  chosen = np.resize(np.arange(len(rows))[::-1], count)
  dataset, positions = pipeline.for_inference(
    *(data.inputs[rows[chosen]], model.backbone.preprocess, count),
    None if lengths is None else lengths[chosen],
  )
  return next(iter(dataset)), data.targets[rows[chosen]][positions]


def _forward(data, model, whole):
  """Returns a function of a number of examples, which runs a forward pass on them."""
  inputs, _ = _largest_batch(data, model, whole)
  return lambda size: model.network.predict(_last(inputs, size), verbose=0)


@contextlib.contextmanager
def _training(config, phase, features, inputs, targets) -> Iterator[Callable[[int], object]]:
  """Yields a function of a number of examples, which runs a training step of two microbatches of this size.

  More microbatches need no more memory, since each one is freed before the next.
  """
  model = features.model
  stages.set_trainable(model, phase)
  batch = inputs, model.task.codec.as_probabilities(targets) if phase.inputs.mixes else targets
  network = train_steps.microbatched(of(phase).network(model, phase), 2)
  policy = precision.candidates(config.machine, model.backbone, features.devices, bool(config.batch_tokens))[0]
  with precision.trial(policy, PhaseSteps(network, phase, model, features.data.train_targets)):
    yield lambda size: network.fit(_last(batch, 2 * size), verbose=0, shuffle=False)


def _last(batch, count):
  """Returns a dataset with one batch: the last `count` examples of `batch`, whose number is dynamic in the graph."""
  batch = tf.nest.map_structure(tf.convert_to_tensor, batch)
  return tf.data.Dataset.from_tensors(count).map(lambda n: tf.nest.map_structure(lambda x: x[-n:], batch))
