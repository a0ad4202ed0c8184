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
from tl_app.assets import Assets
from tl_app.commands import benchmark
from tl_app.commands import train as train_lib
from tl_app.config import Config
from tl_app.model import stages
from tl_app.recipes import recipes
from tl_app.recipes.phase import HEAD
from tl_app.tasks import statistics as statistics_lib
from tl_app.training import feed, precision
from tl_app.training.compiling import PhaseSteps
from tl_app.workdir import Record

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


def timed(network, dataset, steps, number_format=precision.FLOAT32):
  """Returns a function that trains for `steps` batches after the warm-up and returns (seconds, CPU seconds)."""

  def train():
    watch = Timed()
    with precision.computing(network, number_format):
      network.fit(dataset, steps_per_epoch=WARMUP + steps, epochs=1, verbose=0, shuffle=False, callbacks=[watch])
    return [end - start for start, end in zip(watch.start, watch.end)]

  return train


def compiled(features, phase, policy, seed):
  """Returns (network, dataset): a network of its own over the variables of the run, and its training stream."""
  model = features.model
  stages.set_trainable(model, phase)
  whole = feed.whole_network(phase, features, seed)
  own = keras.Model(whole.network.input, whole.network.output)
  PhaseSteps(own, phase, model, features.data.train_targets).compile(policy)
  return own, whole.dataset()


def step_policies(features, phase, config):
  """Returns the `StepPolicy`s to show: the plain one, and the one that --precision=auto chooses if it is another."""
  model = features.model
  stages.set_trainable(model, phase)
  whole = feed.whole_network(phase, features, config.seed)
  steps = PhaseSteps(whole.network, phase, model, features.data.train_targets)
  candidates = precision.candidates(config.machine, model.backbone, features.devices)
  chosen = precision.choose(candidates, steps, whole.dataset(), phase.schedule.steps)
  return list(dict.fromkeys([precision.PLAIN, chosen]))


def fixed_length(features):
  """Returns the shortest fixed length that truncates no text which the stream does not truncate."""
  data, longest = features.data, features.model.backbone.preprocess.max_length
  return min(longest, math.ceil(int(data.lengths[data.train].max()) / 8) * 8)


def training_texts(data):
  """Returns the list of the training texts."""
  return list(data.inputs[data.train].array())


def kerashub(features, model_directory, learning_rate, batch_size):
  """Returns (KerasHub's classifier on the same weights, dataset of batches that its own preprocessor has made)."""
  data = features.data
  classifier = keras_hub.models.BertTextClassifier.from_preset(
    str(model_directory), num_classes=len(features.model.task.names), activation=None, load_weights=True
  )
  classifier.preprocessor.sequence_length = KERASHUB_LENGTH
  classifier.compile(
    optimizer=keras.optimizers.AdamW(learning_rate, weight_decay=0.01),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
  )
  texts = training_texts(data)
  raw = tf.data.Dataset.from_tensor_slices((texts, data.train_targets)).shuffle(len(texts), seed=0).repeat()
  return classifier, raw.batch(batch_size)


@contextlib.contextmanager
def hugging_face(features, model_directory, flags, learning_rate, scratch):
  """Yields a function, command -> the answer of the process of `rivals_hf`; None without --hf_python."""
  if not flags.hf_python:
    yield None
    return
  data = features.data
  texts = {"texts": training_texts(data), "labels": data.train_targets.tolist()}
  texts |= {"test_texts": list(data.inputs[data.test].array()), "test_labels": data.targets[data.test].tolist()}
  path = pathlib.Path(scratch) / "texts.json"
  path.write_text(json.dumps(texts))
  script = pathlib.Path(__file__).with_name("rivals_hf.py")
  command = [flags.hf_python, str(script), f"--model={model_directory}", f"--data={path}", f"--steps={flags.steps}"]
  command += [
    f"--warmup={WARMUP}",
    f"--batch_size={flags.batch_size}",
    f"--threads={len(os.sched_getaffinity(0))}",
  ]
  command += [f"--max_length={features.model.backbone.preprocess.max_length}", f"--learning_rate={learning_rate}"]
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


def speeds(phase, sides, flags):
  """Returns {side: [(examples per second, per CPU second) of each round]} of {side: (function as `timed`, batches)}."""
  found = {name: [] for name in sides}
  for round_ in range(flags.rounds + 1):
    order = list(sides)
    for name in order[round_ % len(order) :] + order[: round_ % len(order)]:
      train, steps = sides[name]
      rates = [steps * phase.inputs.batch_size / seconds for seconds in train()]
      # The first round traces and fills caches.
      if round_:
        found[name].append(rates)
  return found


def sides_of(features, phase, config, model_directory, ask, flags):
  """Returns {side: (function as `timed`, batches)}."""
  sides = {}
  for policy in step_policies(features, phase, config):
    network, stream = compiled(features, phase, policy, config.seed)
    sides[f"tl_app, {policy}"] = timed(network, stream, flags.steps, policy.precision), flags.steps
  length = fixed_length(features)
  network, _ = compiled(features, phase, policy, config.seed)
  fixed = benchmark.fixed_lengths(phase, features, length, config.seed)
  sides[f"fixed length {length}, {policy}"] = timed(network, fixed, flags.steps, policy.precision), flags.steps
  few = flags.kerashub_steps
  if few:
    largest = max(phase.optimizer.learning_rates.values())
    classifier, batches = kerashub(features, model_directory, largest, flags.batch_size)
    sides[f"kerashub, length {KERASHUB_LENGTH}"] = timed(classifier, batches, few), few
  if ask:
    sides["hugging_face"] = lambda: ask("round")["seconds"], flags.steps
  return sides


def accuracies(features, phase, config, model_directory, ask, learning_rate, flags):
  """Returns {side: (test accuracy, its 95 % interval)} after the epochs of `phase` from a new head."""
  data, network, found = features.data, features.model.network, {}
  targets, values = data.targets[data.test], [v.numpy() for v in network.variables]

  def note(side, right):
    found[side] = float(np.mean(right)), statistics_lib.accuracy_interval(int(np.sum(right)), len(right))

  for policy in step_policies(features, phase, config):
    own, stream = compiled(features, phase, policy, config.seed)
    with precision.computing(own, policy.precision):
      own.fit(stream, steps_per_epoch=phase.schedule.steps, epochs=1, verbose=0, shuffle=False)
    note(f"tl_app, {policy}", features.logits(data.test).argmax(axis=-1) == targets)
    for variable, value in zip(network.variables, values):
      variable.assign(value)
  if ask:
    note("hugging_face", ask("epochs")["right"])
  if flags.kerashub_steps:
    classifier, batches = kerashub(features, model_directory, learning_rate, flags.batch_size)
    classifier.fit(batches, steps_per_epoch=phase.schedule.steps, epochs=1, verbose=0)
    texts = list(data.inputs[data.test].array())
    note("kerashub", classifier.predict(texts, verbose=0).argmax(axis=-1) == targets)
  return found


def measure(flags):
  """Returns the results, ready for JSON."""
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
      features, plan = train_lib.prepare(config, backbones.resolve(config.backbone), Record(paths), recipes.plan)
      phase, spec = plan.phases[-1], features.model.backbone.spec
      wheel = Assets(config.cache_dir, config.offline).wheel(spec.handle, spec.sha256, spec.files)
      (model_directory,) = {path.parent for path in pathlib.Path(wheel).rglob("model.safetensors")}
      rate = max(rate for name, rate in phase.optimizer.learning_rates.items() if name != HEAD)
      with hugging_face(features, model_directory, flags, rate, scratch) as ask:
        if flags.accuracy:
          return {"test_accuracy": accuracies(features, phase, config, model_directory, ask, rate, flags)}
        sides = sides_of(features, phase, config, model_directory, ask, flags)
        return {"examples_per_second": speeds(phase, sides, flags)}


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
  parser.add_argument("--kerashub_steps", type=int, default=6, help="All of its batches cost the same. 0: none.")
  parser.add_argument("--hf_python", default="", help="With torch, transformers and accelerate. Empty: no such side.")
  parser.add_argument("--hf_bf16", action="store_true", help="Hugging Face computes in bfloat16 too.")
  parser.add_argument("--accuracy", action="store_true", help="In place of speed: test accuracy after --epochs.")
  parser.add_argument("--epochs", type=int, default=1)
  parser.add_argument("--output", help="JSON file for the results.")
  flags = parser.parse_args()
  if not flags.hf_python:
    print("Hugging Face: no --hf_python, not measured")
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
