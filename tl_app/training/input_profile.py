"""--profile_input: how long a training step waits for its data, and how long each step of the input pipeline takes."""

import logging
import time
from collections.abc import Callable, Iterator

import numpy as np

from tl_app.data import pipeline
from tl_app.features import inference_engine
from tl_app.features.frozen import Features
from tl_app.recipes.phase import Phase
from tl_app.training import feed, precision
from tl_app.workdir import Record

log = logging.getLogger(__name__)

# Largest and smallest number of batches of a measurement, and the seconds that it should take.
MAX_BATCHES, MIN_BATCHES, SECONDS = 48, 6, 4.0
# How often each prefix of the stream is run; the fastest run counts, since other processes share the machine.
ROUNDS = 2
# Number of batches in memory on which steps are timed without the pipeline.
READY_BATCHES = 3


def profile_training_steps(phase: Phase, stream: list, steps: precision.Steps, policy, record: Record) -> None:
  """Measures the training steps of a phase and adds the result to plan.json; every variable keeps its value.

  Args:
    phase: the `Phase`.
    stream: the steps of its input stream, see `pipeline.training_steps`; training starts it again.
    steps: its `PhaseSteps`.
    policy: the `StepPolicy`.
    record: the `Record` of the run.
  """
  with precision.trial(policy, steps):
    result = measure(stream, lambda batch: precision.step(steps.network, batch))
  _note({"phase": phase.name, "step": "training"} | result, record)


def profile_inference(phase: Phase, features: Features, seed: int, record: Record) -> None:
  """Measures the forward passes that compute frozen features and adds the result to plan.json.

  Nothing is measured if every feature is stored.

  Args:
    phase: a phase on frozen features; its examples are read.
    features: the `Features` of the run.
    seed: seed of the order of the examples.
    record: the `Record` of the run.
  """
  if not features.num_missing():
    log.info("--profile_input: all features are stored, so there is no input to measure")
    return
  network = features.model.features
  plain = inference_engine.plain(network, features.devices.replicas)
  with features.devices.scope():
    stream = feed.training_steps(phase.replace(batch_size=features.batch_size), features, seed)
    result = measure(stream, lambda batch: plain.predict_on_batch(precision.per_device_share(network, batch[0])))
  _note({"phase": "frozen features", "step": "forward pass"} | result, record)


def _note(result, record):
  record.note("input", result)
  for line in lines(result):
    log.info("%s", line)


def measure(stream: list, step: Callable) -> dict:
  """Measures an input stream and the training steps on it.

  Args:
    stream: the steps of an endless stream, see `pipeline.training_steps`.
    step: function that trains on a batch and returns when the step is complete.

  Returns:
    A dict, ready for JSON. Times are in seconds:
    "batches": number of batches for which the pipeline alone was measured.
    "input_steps": {name of an input step: time that it adds to a batch}.
    "pipeline": time of a batch in the pipeline alone, the sum of these.
    "steps": number of training steps that were measured while the pipeline runs.
    "ready": median time of a training step whose batch is in memory.
    "beside": mean time of a training step while the pipeline runs, including the wait.
    "wait": mean time that such a step waits for its batch.
    "wait_share": "wait" divided by "beside".
    "summary": the result as a sentence.
  """
  names = [input_step.name for input_step in stream]
  batches, cumulative = _pipeline(stream)
  # Apart from noise, a longer prefix of the stream takes longer.
  cumulative = np.maximum.accumulate(cumulative)
  seconds = np.diff(cumulative, prepend=0.0)
  ready, steps, beside, wait = _steps(pipeline.whole(stream), step)
  profile = {
    "batches": batches,
    "input_steps": dict(zip(names, map(float, seconds))),
    "pipeline": float(cumulative[-1]),
    "steps": steps,
    "ready": ready,
    "beside": beside,
    "wait": wait,
    "wait_share": wait / beside,
  }
  return profile | {"summary": _summary(profile)}


def _summary(profile):
  slowest = max(profile["input_steps"], key=profile["input_steps"].get)
  share = profile["input_steps"][slowest] / profile["pipeline"]
  waits = f"{profile['wait_share']:.0%} of the step time is spent waiting for data"
  return f"{waits}; {slowest} is the slowest step of the pipeline, {share:.0%} of it"


def lines(profile: dict) -> Iterator[str]:
  """Yields the lines of a profile that are printed."""
  counts = f"{profile['batches']} batches, {profile['steps']} steps"
  yield f"input pipeline before {profile['phase']}, seconds per batch ({counts}):"
  for name, seconds in profile["input_steps"].items():
    yield f"  {name:24} {seconds:9.4f}  {seconds / profile['pipeline']:4.0%}"
  yield f"  {'pipeline alone':24} {profile['pipeline']:9.4f}"
  yield f"  {'step, batch ready':24} {profile['ready']:9.4f}  ({profile['step']})"
  yield f"  {'step and pipeline':24} {profile['beside']:9.4f}  of which waiting {profile['wait']:.4f}"
  yield profile["summary"]


def _pipeline(stream):
  """Returns (number of batches, [seconds per batch of the stream up to each step])."""
  datasets = [(pipeline.dataset(stream[:k]), input_step.elements) for k, input_step in enumerate(stream, start=1)]
  # The first run traces, and loads files into the page cache.
  batches = _num_batches(_seconds(*datasets[-1], MIN_BATCHES) / MIN_BATCHES)
  for dataset, elements in datasets[:-1]:
    _seconds(dataset, elements, 1)
  rounds = [[_seconds(*dataset, batches) for dataset in datasets] for _ in range(ROUNDS)]
  return batches, np.min(rounds, axis=0) / batches


def _seconds(dataset, elements, batches):
  """Returns the seconds in which TensorFlow reads `batches` batches of a dataset, without copies to Python."""
  start = time.perf_counter()
  pipeline.untuned(dataset.take(batches * elements)).reduce(np.int64(0), lambda count, *_: count + 1).numpy()
  return time.perf_counter() - start


def _steps(dataset, step):
  """Returns the "ready", "steps", "beside" and "wait" of `measure`."""
  iterator = iter(dataset)
  in_memory = [next(iterator) for _ in range(READY_BATCHES)]
  # The first round traces.
  ready = [_timed(step, batch) for batch in in_memory * 2][READY_BATCHES:]
  waits, busy = [], []
  for _ in range(_num_batches(float(np.median(ready)))):
    start = time.perf_counter()
    batch = next(iterator)
    waits.append(time.perf_counter() - start)
    busy.append(_timed(step, batch))
  return float(np.median(ready)), len(waits), float(np.mean(waits) + np.mean(busy)), float(np.mean(waits))


def _timed(step, batch):
  start = time.perf_counter()
  step(batch)
  return time.perf_counter() - start


def _num_batches(seconds):
  """Returns the number of batches of a measurement, given the seconds per batch."""
  return int(np.clip(SECONDS / max(seconds, 1e-9), MIN_BATCHES, MAX_BATCHES))
