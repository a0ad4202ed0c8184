"""--profile_input: what a step waits for its data, and how long each step of the input pipeline takes."""

import logging
import time

import numpy as np

from tl_app.compute import precision
from tl_app.data import pipeline
from tl_app.features import inference_engine
from tl_app.features.frozen import Features
from tl_app.recipes.phase import Phase
from tl_app.training import feed
from tl_app.workdir import Record

log = logging.getLogger(__name__)

# Batches of a measurement, at most and at least, and the seconds that it is to take in between.
MOST, LEAST, SECONDS = 48, 6, 4.0
# Times that each prefix of the stream is run, in turn; the fastest counts, since others share the machine.
ROUNDS = 2
# Batches that are there before the steps on them begin.
HELD = 3


def profile_training_steps(phase: Phase, stream: list, steps: precision.Steps, policy, record: Record) -> None:
  """Measures the training steps of a phase and adds the result to plan.json; every variable keeps its value.

  Args:
    phase: the `Phase`.
    stream: the steps of its input stream, see `pipeline.training_steps`; it starts again afterwards.
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
    phase: a phase on frozen features, whose examples are read.
    features: the `Features` of the run.
    seed: of the order.
    record: the `Record` of the run.
  """
  if not features.num_missing():
    log.info("--profile_input: all features are stored, so that nothing is read and computed")
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


def measure(stream: list, step) -> dict:
  """Returns what a stream and the steps on it take.

  Args:
    stream: the steps of an endless stream, see `pipeline.training_steps`.
    step: function of a batch, that ends when its step is done.

  Returns:
    A dict, ready for JSON, of seconds unless stated otherwise:
    "batches": number of batches for which the pipeline alone was measured.
    "input_steps": {name of an input step: what it adds to a batch}.
    "pipeline": the sum of these.
    "steps": number of training steps beside the pipeline.
    "ready": median of a training step on a batch that is there.
    "beside": mean of a training step beside the pipeline, with what it waits.
    "wait": mean of what it waits.
    "wait_share": share of "beside" that is "wait".
    "summary": a sentence.
  """
  names = [each.name for each in stream]
  batches, upto = _pipeline(stream)
  # Apart from noise, a prefix of the stream cannot take longer than a longer one.
  upto = np.maximum.accumulate(upto)
  own = np.diff(upto, prepend=0.0)
  ready, steps, beside, wait = _steps(pipeline.whole(stream), step)
  found = {
    "batches": batches,
    "input_steps": dict(zip(names, map(float, own))),
    "pipeline": float(upto[-1]),
    "steps": steps,
    "ready": ready,
    "beside": beside,
    "wait": wait,
    "wait_share": wait / beside,
  }
  return found | {"summary": _summary(found)}


def _summary(found):
  slowest = max(found["input_steps"], key=found["input_steps"].get)
  share = found["input_steps"][slowest] / found["pipeline"]
  waits = f"{found['wait_share']:.0%} of a step waits for data"
  return f"{waits}; {slowest} is the slowest step of the pipeline, {share:.0%} of it"


def lines(found):
  """Yields what the user reads of a measurement."""
  yield f"input pipeline before {found['phase']}, seconds a batch ({found['batches']} batches, {found['steps']} steps):"
  for name, seconds in found["input_steps"].items():
    yield f"  {name:24} {seconds:9.4f}  {seconds / found['pipeline']:4.0%}"
  yield f"  {'the pipeline alone':24} {found['pipeline']:9.4f}"
  yield f"  {'a step, its batch there':24} {found['ready']:9.4f}  ({found['step']})"
  yield f"  {'a step beside it':24} {found['beside']:9.4f}  of which it waits {found['wait']:.4f}"
  yield found["summary"]


def _pipeline(stream):
  """Returns (batches, [seconds a batch of the stream up to each step])."""
  datasets = [(pipeline.dataset(stream[:k]), each.elements) for k, each in enumerate(stream, start=1)]
  # The first time traces, and reads from disk what then is in memory.
  batches = _number(_seconds(*datasets[-1], LEAST) / LEAST)
  for dataset, elements in datasets[:-1]:
    _seconds(dataset, elements, 1)
  rounds = [[_seconds(*dataset, batches) for dataset in datasets] for _ in range(ROUNDS)]
  return batches, np.min(rounds, axis=0) / batches


def _seconds(dataset, elements, batches):
  """Returns the seconds that `batches` of a dataset take; they stay in TensorFlow's runtime."""
  start = time.perf_counter()
  pipeline.untuned(dataset.take(batches * elements)).reduce(np.int64(0), lambda count, *_: count + 1).numpy()
  return time.perf_counter() - start


def _steps(dataset, step):
  """Returns (median seconds of a step on a batch that is there, steps beside the pipeline, their mean seconds, mean
  seconds that they wait)."""
  iterator = iter(dataset)
  held = [next(iterator) for _ in range(HELD)]
  ready = [_timed(step, batch) for batch in held * 2][HELD:]
  waits, busy = [], []
  for _ in range(_number(float(np.median(ready)))):
    start = time.perf_counter()
    batch = next(iterator)
    waits.append(time.perf_counter() - start)
    busy.append(_timed(step, batch))
  return float(np.median(ready)), len(waits), float(np.mean(waits) + np.mean(busy)), float(np.mean(waits))


def _timed(step, batch):
  start = time.perf_counter()
  step(batch)
  return time.perf_counter() - start


def _number(seconds):
  """Returns how many batches of so many seconds each make a measurement."""
  return int(np.clip(SECONDS / max(seconds, 1e-9), LEAST, MOST))
