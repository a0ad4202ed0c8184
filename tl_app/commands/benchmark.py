"""Candidates timed side by side: one process, every round runs each once, ratios per round, medians with spread."""

import dataclasses
import functools
import logging
import os
import pathlib
import platform
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from tl_app import backbones, files
from tl_app import workdir as workdir_lib
from tl_app.commands import train as train_lib
from tl_app.config import rules
from tl_app.data import modalities, pipeline
from tl_app.errors import UserError
from tl_app.features import inference_engine, session, trunk
from tl_app.model import heads, stages
from tl_app.recipes import recipes
from tl_app.training import fit, planning

log = logging.getLogger(__name__)

FIGURES = "benchmark.json"
PROBE_EPOCHS = 20


def measure(config, parts, repeats, steps):
  """Measures `parts` and writes benchmark.json to --workdir.

  Args:
    config: `Config`.
    parts: names of `PARTS` with commas.
    repeats: rounds.
    steps: batches of a candidate in a round.

  Returns:
    The content of benchmark.json: {"config", "machine", "repeats", "steps", "parts": {name: {candidate: {"seconds",
    "ratio"}}}}. Seconds are [least, median, greatest] of a round's batches, or of what the candidate's name says;
    ratios likewise, of the first candidate's seconds to this one's in the same round.

  Raises:
    UserError: no such part.
  """
  rules.refuse_unused(config, "benchmark")
  names = [name.strip() for name in parts.split(",") if name.strip()]
  for name in names or [parts]:
    if name not in PARTS:
      raise UserError(f"--parts={parts}: {name!r} is none of {', '.join(PARTS)}")
  with tempfile.TemporaryDirectory() as scratch:
    # The features of a run may be stored already: what is measured here starts without.
    own = dataclasses.replace(config, workdir=f"{scratch}/run", feature_cache=f"{scratch}/features", export=False)
    with workdir_lib.claim(own.workdir, own) as paths:
      run = train_lib.prepare(own, paths, backbones.resolve(own.backbone))
      planning.plan(run, recipes.plan)
      figures = {name: PARTS[name](run, repeats, steps) for name in names}
  result = {
    "config": {name: value for name, value in dataclasses.asdict(config).items() if name != "workdir"},
    "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "tensorflow": tf.__version__},
    "repeats": repeats,
    "steps": steps,
    "parts": {name: figure for name, figure in figures.items() if figure},
  }
  pathlib.Path(config.workdir).mkdir(parents=True, exist_ok=True)
  files.write_json(pathlib.Path(config.workdir) / FIGURES, result)
  return files.read_json(pathlib.Path(config.workdir) / FIGURES)


def lines(result):
  """Yields the table of a result, one line a candidate."""
  yield f"{result['repeats']} rounds of {result['steps']} batches; median (least to greatest of the rounds)"
  for part, candidates in result["parts"].items():
    yield f"\n{part}: {PARTS[part].__doc__.splitlines()[0]}"
    for name, figures in candidates.items():
      low, middle, high = figures["seconds"]
      least, ratio, most = figures["ratio"]
      yield (
        f"  {name:44} {middle:10.4f} s ({low:.4f} to {high:.4f})   "
        f"{ratio:7.2f} times as fast ({least:.2f} to {most:.2f})"
      )


def _side_by_side(candidates, repeats):
  """Returns {name: {"seconds", "ratio"}} of {name: function of no arguments}; each has run once before."""
  return _figures(_rounds(candidates, repeats))


def _rounds(candidates, repeats):
  """Returns {name: seconds of each round, float [repeats]} of {name: function of no arguments}."""
  seconds = {name: [] for name in candidates}
  for round_ in range(repeats):
    order = list(candidates)
    for name in order[round_ % len(order) :] + order[: round_ % len(order)]:
      start = time.perf_counter()
      candidates[name]()
      seconds[name].append(time.perf_counter() - start)
  return {name: np.array(own) for name, own in seconds.items()}


def _figures(seconds):
  """Returns {name: {"seconds", "ratio"}} of {name: seconds of each round}."""
  first = next(iter(seconds.values()))
  return {name: {"seconds": _spread(own), "ratio": _spread(first / own)} for name, own in seconds.items()}


def _spread(values):
  return [float(value) for value in (np.min(values), np.median(values), np.max(values))]


def _phase(run, names):
  """Returns the fine-tuning phase of `names` as the recipe makes it."""
  config = dataclasses.replace(run.config, train_stages="all", epochs=max(2, run.config.epochs), batch_tokens=0)
  phase = recipes.lp_ft(config, planning.facts(run), run.strategy.num_replicas_in_sync)[-1]
  rates = {name: phase.learning_rates[name] for name in names}
  return dataclasses.replace(phase, train_stages=tuple(names), learning_rates=rates)


def _compiled(run, phase, network):
  """Returns a model of its own over `network`, compiled for `phase`, whose every call is one step."""
  stages.set_trainable(run.model, phase)
  with run.strategy.scope():
    own = keras.Model(network.input, network.output)
    fit.compile_for(own, phase, run.model, targets=run.labels[run.split.train])
  own.steps_per_execution = 1
  return own


def _online(run, phase):
  """Returns (network, dataset) that run the whole backbone in every step."""
  network, dataset = fit.online(run, phase)
  return _compiled(run, phase, network), dataset


def _fit(network, dataset, steps, epochs=1):
  """Returns a function that trains for epochs of `steps` batches; called once here, so that nothing is traced later."""

  def train():
    network.fit(dataset, steps_per_epoch=steps, epochs=epochs, verbose=0, shuffle=False)

  train()
  return train


def _cuts(run):
  """Returns {what trains: its stages} from everything to the head alone."""
  names = stages.that_can_train(run.model)
  return {
    "everything": [*names, recipes.HEAD],
    f"top half ({names[len(names) // 2]} and above)": [*names[len(names) // 2 :], recipes.HEAD],
    f"top stage ({names[-1]})": [names[-1], recipes.HEAD],
    "head only": [recipes.HEAD],
  }


def stage_steps(run, repeats, steps):
  """Training steps, the whole backbone in each, as stages freeze."""
  _, dataset = _online(run, _phase(run, [recipes.HEAD]))
  batches = list(dataset.take(steps))

  def on_batches(network):
    def train():
      for inputs, targets in batches:
        network.train_on_batch(inputs, targets)

    train()
    return train

  return _side_by_side(
    {name: on_batches(_online(run, _phase(run, members))[0]) for name, members in _cuts(run).items()}, repeats
  )


def head_epochs(run, repeats, steps):
  """An epoch of the head, and a whole probe with its validation: features in every epoch, and read from the cache."""
  phase = _phase(run, [recipes.HEAD])
  # Neither side answers the test split.
  run = dataclasses.replace(run, split=dataclasses.replace(run.split, test=run.split.test[:0]))
  network, dataset = _online(run, phase)
  steps = min(steps, phase.steps_per_epoch)
  online = _fit(network, dataset, steps)
  start = time.perf_counter()
  features = session.frozen_features(run)
  extraction = time.perf_counter() - start
  heads.standardize(run.model.head, features[run.split.train])
  with run.strategy.scope():
    stages.set_trainable(run.model, phase)
    head = keras.Model(run.model.head.input, run.model.head.output)
    fit.compile_for(head, phase, run.model, targets=run.labels[run.split.train])
  train = run.split.train
  stored = pipeline.feature_steps(
    features[train], features.targets(run.labels, train), features.rows_of(phase.batch_size, train), run.config.seed
  )
  cached = _fit(head, pipeline.whole(stored), phase.steps_per_epoch, PROBE_EPOCHS)
  validation = run.split.validation
  validate = {
    "validation online": lambda: session.predict(run, run.model.network, validation),
    "validation cached": lambda: session.head_logits(run, validation),
  }
  for answer in validate.values():
    answer()
  seconds = _rounds({"online": online, "cached": cached} | validate, repeats)
  of_epoch = {"online": seconds["online"] * phase.steps_per_epoch / steps, "cached": seconds["cached"] / PROBE_EPOCHS}
  whole = {name: PROBE_EPOCHS * (own + seconds[f"validation {name}"]) for name, own in of_epoch.items()}
  whole["cached"] += extraction
  names = f"epoch online ({steps} of {phase.steps_per_epoch} batches, scaled)", "epoch from the cache"
  of_probe = f"{PROBE_EPOCHS} epochs online (scaled)", f"extraction and {PROBE_EPOCHS} epochs from the cache"
  return _figures(dict(zip(names, of_epoch.values()))) | _figures(dict(zip(of_probe, whole.values())))


def trunk_steps(run, repeats, steps):
  """Steps of the top stages, whose lower stages run in each, or were computed once; texts also at one fixed length."""
  names = stages.that_can_train(run.model)
  figures = {}
  for lowest in dict.fromkeys([names[-1], names[-min(2, len(names))], names[-max(1, len(names) // 3)]]):
    figures |= _from_stage(run, lowest, repeats, steps)
  return figures


def _from_stage(run, lowest, repeats, steps):
  names = stages.that_can_train(run.model)
  phase = _phase(run, [*names[names.index(lowest) :], recipes.HEAD])
  below = trunk.features(run, phase)
  if below is None:
    log.info("trunk: nothing is compared below %s, see above", lowest)
    return {}
  network, alike = _online(run, phase)
  candidates = {
    "in every step": _fit(network, alike, steps),
    "read": _fit(_compiled(run, phase, below.network), pipeline.whole(below.training_parts(phase)), steps),
  }
  if modalities.of(run.examples.modality).varies_in_length:
    length = run.model.backbone.preprocess.max_length
    candidates["fixed"] = _fit(network, fixed_lengths(run, phase, length), steps)
  seconds = _rounds(candidates, repeats)
  read, online = seconds["read"], seconds["in every step"]
  figures = _figures({f"from {lowest}, the rest in every step": online, f"from {lowest}, the rest read": read})
  if "fixed" in seconds:
    names = f"from {lowest}, all at fixed length {length}", f"from {lowest}, read in batches of like length"
    figures |= _figures(dict(zip(names, (seconds["fixed"], read))))
  return figures


def length_steps(run, repeats, steps):
  """Full fine-tuning of as many texts: at one fixed length, in batches of like length, of --batch_tokens if given."""
  length = run.model.backbone.preprocess.max_length
  if not length:
    log.info("lengths: %s takes no tokens", run.config.backbone)
    return {}
  phase, tokens = _phase(run, [*run.model.backbone.stages, recipes.HEAD]), run.config.batch_tokens
  network, alike = _online(run, phase)
  candidates = {
    f"fixed length {length}": _fit(network, fixed_lengths(run, phase, length), steps),
    "batches of like length": _fit(network, alike, steps),
  }
  if tokens:
    mean = session.batch_examples(run)
    _, filled = fit.online(run, dataclasses.replace(phase, batch_tokens=tokens, batch_size=round(mean)))
    name = f"batches of up to {tokens:,} tokens, {mean:.0f} texts"
    candidates[name] = _fit(network, filled, max(1, round(steps * phase.batch_size / mean)))
  return _side_by_side(candidates, repeats)


def fixed_lengths(run, phase, length):
  """Returns the endless dataset of the training split's texts in no order of length, all filled up to `length`."""
  train, preprocess = run.split.train, run.model.backbone.preprocess
  raw, targets = tf.constant(run.examples.inputs[train].array(), tf.string), tf.constant(run.labels[train])
  order = pipeline.index_batches(len(train), phase.batch_size, run.config.seed)
  batches = order.map(lambda i: (_padded(preprocess(tf.gather(raw, i)), length), tf.gather(targets, i)))
  return pipeline.ahead(batches)


def _padded(inputs, length):
  def pad(x):
    return tf.pad(x, [*[[0, 0]] * (len(x.shape) - 1), [0, length - tf.shape(x)[-1]]])

  return {name: pad(x) for name, x in inputs.items()}


def engine_batches(run, repeats, steps):
  """Frozen features from raw examples: by TensorFlow, and by OpenVINO (what it gives in bfloat16 no run takes)."""
  network, indices = run.model.features, run.split.train[: steps * session.inference_batch(run)]
  try:
    networks = {
      "TensorFlow": inference_engine.fold(network),
      "TensorFlow, weights as variables": network,
      "OpenVINO": inference_engine.convert(network),
      "OpenVINO in bfloat16": inference_engine.convert(network, "bf16"),
    }
  except inference_engine.Refused as error:
    log.info("engines: %s", error)
    return {}
  exact, *others = (session.predict(run, chosen, indices) for chosen in networks.values())
  for name, features in zip(list(networks)[1:], others):
    log.info("%s differs by %.2g of the features' deviation", name, inference_engine.difference(features, exact))
  return _side_by_side(
    {
      f"{name}, {len(indices)} examples": functools.partial(session.predict, run, chosen, indices)
      for name, chosen in networks.items()
    },
    repeats,
  )


PARTS = {
  "stages": stage_steps,
  "head": head_epochs,
  "trunk": trunk_steps,
  "lengths": length_steps,
  "engines": engine_batches,
}
