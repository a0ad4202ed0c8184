"""--batch_size=auto: how many examples of a step, and of a forward pass, memory holds at a time."""

import contextlib
import dataclasses
import logging

import numpy as np
import tensorflow as tf

from tl_app import config as config_lib
from tl_app import files
from tl_app.compute import memory, precision
from tl_app.data import modalities, pipeline
from tl_app.errors import UserError
from tl_app.features import session
from tl_app.model import stages
from tl_app.training import fit, train_steps

log = logging.getLogger(__name__)


def settle(run, phases):
  """Returns the phases in the microbatches that memory holds, and sets `run.forward_batch`; plan.json says why.

  What is tried is the longest texts, or images of full size, in the phase that trains most: all that train the
  backbone get its number of microbatches; batches of shorter texts are cut into fewer. Without --batch_size=auto
  nothing is tried and nothing changes.

  Raises:
    UserError: not even one example a device fits.
  """
  if run.config.batch_size != config_lib.AUTO:
    return phases
  with run.strategy.scope(), run.clock("train"):
    whole = session.inference_batch(run)
    run.forward_batch, why = _largest(run, whole, "a forward pass", _forward(run, whole))
    notes = {"forward_pass": {"examples": run.forward_batch, "why": why}}
    trained = [phase for phase in phases if phase.backbone_trains]
    if trained:
      heaviest = max(trained, key=lambda phase: _trained(run, phase))
      whole = heaviest.batch_size
      inputs, targets = _largest_batch(run, 2 * whole)
      with _training(run, heaviest, inputs, targets) as step:
        examples, why = _largest(run, whole, "a training step", step)
      longest = int(train_steps.positions(run.model.network, inputs))
      notes["training_step"] = {"examples": examples, "of": whole, "positions": longest, "why": why}
      parts = {"microbatches": whole // examples, "longest": longest}
      phases = [dataclasses.replace(phase, **parts) if phase.backbone_trains else phase for phase in phases]
  written = files.read_json(run.paths.plan)
  for row, phase in zip(written["phases"], phases):
    row["microbatches"] = phase.microbatches
  files.write_json(run.paths.plan, written | {"batch_size": notes})
  return phases


def sizes(batch_size, devices):
  """Returns the sizes of equal parts of a batch, descending, each at most half of the one before, the devices' share
  of it a whole number."""
  share = batch_size // devices
  found = [share]
  for size in range(share // 2, 0, -1):
    if share % size == 0 and 2 * size <= found[-1]:
      found.append(size)
  return [size * devices for size in found]


def _largest(run, whole, what, step):
  """Returns (examples at a time, why); `step` is a function of their number."""
  tried = sizes(whole, run.strategy.num_replicas_in_sync)
  if tf.config.list_logical_devices("GPU"):
    examples = memory.back_off(tried, step)
    why = "all of them fit" if examples == whole else f"{_above(tried, examples)} do not fit into the GPU's memory"
  else:
    # The first one traces.
    step(tried[-1])
    start, free = memory.resident(), memory.available()
    examples, taken = memory.estimate(tried, lambda size: memory.peak(lambda: step(size)), start, free)
    next_one = examples if examples == whole else _above(tried, examples)
    needed, left = _gigabytes(taken[next_one] - start), _gigabytes(memory.SHARE * free)
    why = f"{next_one} take about {needed} of {left}, {memory.SHARE:.0%} of the free memory"
  if examples is None:
    raise UserError(
      f"--batch_size=auto: not even {tried[-1]} of {what} at a time: {why}; lower --max_length or --image_size, "
      "or take a smaller backbone"
    )
  log.info("--batch_size=auto: %s of %d examples, %d at a time: %s", what, whole, examples, why)
  return examples, why


def _above(tried, examples):
  """Returns the smallest of `tried` that did not fit."""
  return tried[-1] if examples is None else tried[tried.index(examples) - 1]


def _gigabytes(size):
  return f"{max(0, size) / 1e9:.2f} GB"


def _trained(run, phase):
  """Returns (stages down to the lowest that trains, parameters that train): what decides the memory of a step."""
  selected = stages.selected(run.model, phase)
  names = list(run.model.stages)
  lowest = min(names.index(name) for name, variables in selected.items() if variables)
  return len(names) - lowest, sum(int(np.prod(v.shape)) for variables in selected.values() for v in variables)


def _largest_batch(run, count):
  """Returns (inputs, targets) of `count` training examples: the longest texts, the longest last, or any images."""
  train, lengths = run.places.ravel(), None
  if modalities.of(run.examples.modality).varies_in_length:
    lengths = session.token_counts(run)[train]
    train, lengths = train[np.argsort(lengths, kind="stable")[-count:]], np.sort(lengths)[-count:]
  # A small data set is taken several times.
  chosen = np.resize(np.arange(len(train))[::-1], count)
  dataset, positions = pipeline.for_inference(
    *(run.inputs[train[chosen]], run.model.backbone.preprocess, count),
    None if lengths is None else lengths[chosen],
  )
  return next(iter(dataset)), run.labels[train[chosen]][positions]


def _forward(run, whole):
  """Returns a function, examples at a time, that runs a forward pass of so many."""
  (inputs, _), network = _largest_batch(run, whole), run.model.network
  return lambda size: network.predict(_last(inputs, size), verbose=0)


@contextlib.contextmanager
def _training(run, phase, inputs, targets):
  """Returns a context with a function, examples at a time, that makes a training step of two such parts.

  More parts take no more memory: each is gone before the next one comes.
  """
  stages.set_trainable(run.model, phase)
  batch = inputs, run.model.task.codec.as_probabilities(targets) if phase.mixes else targets
  network = train_steps.in_parts(fit.online(run, phase)[0], 2)
  gpu = bool(tf.config.list_logical_devices("GPU"))
  way = precision.candidates(run.config, run.model.backbone, gpu, run.strategy.num_replicas_in_sync)[0]
  with precision.trial(way, network, fit.compiler(run, phase, network)):
    yield lambda size: network.fit(_last(batch, 2 * size), verbose=0, shuffle=False)


def _last(batch, count):
  """Returns a dataset of one batch, the last `count` examples of `batch`; the graph of a step takes any number."""
  batch = tf.nest.map_structure(tf.convert_to_tensor, batch)
  return tf.data.Dataset.from_tensors(count).map(lambda n: tf.nest.map_structure(lambda x: x[-n:], batch))
