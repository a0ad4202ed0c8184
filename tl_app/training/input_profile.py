"""--profile_input: what a step waits for its data, and which part of the input pipeline takes how long."""

import dataclasses
import logging
import time

import numpy as np

from tl_app import files
from tl_app.compute import precision
from tl_app.data import pipeline
from tl_app.features import inference_engine, session

log = logging.getLogger(__name__)

# Batches of a measurement, at most and at least, and the seconds that it is to take in between.
MOST, LEAST, SECONDS = 48, 6, 4.0
# Times that each part of the pipeline is run through, in turn; the fastest counts, since others share the machine.
ROUNDS = 2
# Batches that are there before the steps on them begin.
HELD = 3


def of_steps(run, name, parts, way, network, compile_way):
  """Measures the training steps of a phase, the first that trains the backbone, and notes it in plan.json.

  Without --profile_input nothing is done. Every variable then has the value it had; the stream starts anew.

  Args:
    run: the `Session`.
    name: of the phase.
    parts: the steps of its stream, see `pipeline.training_steps`.
    way, network, compile_way: as of `precision.trial`.
  """
  if run.config.profile_input and not run.profiled:
    with precision.trial(way, network, compile_way):
      _note(run, {"phase": name, "step": "training"}, parts, lambda batch: precision.step(network, batch))


def of_forward_passes(run, phase):
  """As `of_steps`, of the forward passes that a run makes which trains nothing of the backbone.

  Nothing is measured where every feature is stored.
  """
  if not run.config.profile_input:
    return
  if not session.missing_features(run):
    log.info("--profile_input: all features are stored, so that nothing is read and computed")
    return
  network = run.model.features
  plain = inference_engine.plain(network, run.strategy.num_replicas_in_sync)
  with run.strategy.scope():
    parts = session.training_parts(run, dataclasses.replace(phase, batch_size=session.inference_batch(run)))
    facts = {"phase": "frozen features", "step": "forward pass"}
    _note(run, facts, parts, lambda batch: plain.predict_on_batch(precision.share(network, batch[0])))


def _note(run, facts, parts, step):
  found = facts | measure(parts, step)
  run.profiled = True
  written = files.read_json(run.paths.plan)
  files.write_json(run.paths.plan, written | {"input": found})
  for line in lines(found):
    log.info("%s", line)


def measure(parts, step):
  """Returns what a stream and the steps on it take.

  Args:
    parts: the steps of an endless stream.
    step: function of a batch, that ends when its step is done.

  Returns:
    {"batches": of the pipeline alone; "parts": {name: seconds a batch that it adds}, "pipeline": their sum; "steps":
    number of steps side by side with the pipeline; "ready": median seconds of a step on a batch that is there,
    "beside": mean seconds of one side by side with the pipeline, what it waits included; "wait": mean seconds that it
    waits; "wait_share": of "beside"; "summary": a sentence}.
  """
  names = [part.name for part in parts]
  batches, upto = _pipeline(parts)
  # Noise aside, a part cannot take less than those before it.
  upto = np.maximum.accumulate(upto)
  own = np.diff(upto, prepend=0.0)
  ready, steps, beside, wait = _steps(pipeline.whole(parts), step)
  found = {
    "batches": batches,
    "parts": dict(zip(names, map(float, own))),
    "pipeline": float(upto[-1]),
    "steps": steps,
    "ready": ready,
    "beside": beside,
    "wait": wait,
    "wait_share": wait / beside,
  }
  return found | {"summary": _summary(found)}


def _summary(found):
  slowest = max(found["parts"], key=found["parts"].get)
  share = found["parts"][slowest] / found["pipeline"]
  waits = f"{found['wait_share']:.0%} of a step waits for data"
  return f"{waits}; {slowest} is the slowest part of the pipeline, {share:.0%} of it"


def lines(found):
  """Yields what the user reads of a measurement."""
  yield f"input pipeline before {found['phase']}, seconds a batch ({found['batches']} batches, {found['steps']} steps):"
  for name, seconds in found["parts"].items():
    yield f"  {name:24} {seconds:9.4f}  {seconds / found['pipeline']:4.0%}"
  yield f"  {'the pipeline alone':24} {found['pipeline']:9.4f}"
  yield f"  {'a step, its batch there':24} {found['ready']:9.4f}  ({found['step']})"
  yield f"  {'a step beside it':24} {found['beside']:9.4f}  of which it waits {found['wait']:.4f}"
  yield found["summary"]


def _pipeline(parts):
  """Returns (batches, [seconds a batch of the stream up to each part])."""
  datasets = [(pipeline.dataset(parts[:k]), part.elements) for k, part in enumerate(parts, start=1)]
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
