"""Times alternatives in one process. Every round runs each of them once; medians and ratios come with their range."""

import dataclasses
import functools
import logging
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from tl_app import backbones, files
from tl_app import config as config_lib
from tl_app import workdir as workdir_lib
from tl_app.commands import default_backbone
from tl_app.commands import train as train_lib
from tl_app.config import Config, rules
from tl_app.data import pipeline
from tl_app.errors import UserError
from tl_app.features import inference_engine
from tl_app.features.frozen import Features
from tl_app.model import heads, stages
from tl_app.recipes import recipes
from tl_app.recipes.phase import HEAD, Phase
from tl_app.training import feed, planning
from tl_app.training.compiling import PhaseSteps
from tl_app.workdir import Record

log = logging.getLogger(__name__)

RESULT = "benchmark.json"
PROBE_EPOCHS = 20


def measure(config: Config, parts: str, repeats: int, steps: int) -> dict:
  """Runs the benchmark and writes benchmark.json to --workdir.

  Args:
    config: the `Config`.
    parts: names in `PARTS`, separated by commas.
    repeats: number of rounds.
    steps: number of batches per candidate and round.

  Returns:
    The content of benchmark.json: {"config", "machine", "repeats", "steps", "parts": {name: {candidate: {"seconds",
    "ratio"}}}}. "seconds" is [minimum, median, maximum] over the rounds, for the batches of a round or for what the
    name of the candidate says. "ratio" is [minimum, median, maximum] of the seconds of the first candidate divided by
    those of this one in the same round.

  Raises:
    UserError: a part is unknown.
  """
  rules.refuse_unused(config, "benchmark")
  workdir_lib.check_output(config.workdir)
  names = [name.strip() for name in parts.split(",") if name.strip()]
  for name in names or [parts]:
    if name not in PARTS:
      raise UserError(f"--parts={parts}: {name!r} is not one of {', '.join(PARTS)}{config_lib.suggestion(name, PARTS)}")
  config = default_backbone.named(config)
  with tempfile.TemporaryDirectory() as scratch:
    # An empty feature cache: an earlier run may have stored these features.
    run_config = dataclasses.replace(
      config, workdir=f"{scratch}/run", feature_cache=f"{scratch}/features", export=False
    )
    with workdir_lib.claim(run_config.workdir, run_config) as paths:
      spec = backbones.resolve(run_config.backbone)
      features, plan = train_lib.prepare(run_config, spec, Record(paths), recipes.plan)
      train_lib.announce(plan, run_config, features)
      timings = {name: PARTS[name](run_config, features, repeats, steps) for name in names}
  result = {
    "config": {name: value for name, value in dataclasses.asdict(config).items() if name != "workdir"},
    "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "tensorflow": tf.__version__},
    "repeats": repeats,
    "steps": steps,
    "parts": {name: timing for name, timing in timings.items() if timing},
  }
  pathlib.Path(config.workdir).mkdir(parents=True, exist_ok=True)
  files.write_json(pathlib.Path(config.workdir) / RESULT, result)
  return files.read_json(pathlib.Path(config.workdir) / RESULT)


def lines(result: dict) -> Iterator[str]:
  """Yields a result as a table, one line per candidate."""
  yield f"{result['repeats']} rounds of {result['steps']} batches; median (minimum to maximum over the rounds)"
  for part, candidates in result["parts"].items():
    yield f"\n{part}: {PARTS[part].__doc__.splitlines()[0]}"
    for name, timing in candidates.items():
      low, seconds, high = timing["seconds"]
      lowest, ratio, highest = timing["ratio"]
      yield (
        f"  {name:44} {seconds:10.4f} s ({low:.4f} to {high:.4f})   "
        f"{ratio:7.2f} times as fast ({lowest:.2f} to {highest:.2f})"
      )


def _side_by_side(candidates, repeats):
  """Times candidates, {name: function without arguments}, and returns {name: {"seconds", "ratio"}}.

  Each function must have run once before, so that nothing is traced while it is timed.
  """
  return _ratios(_rounds(candidates, repeats))


def _rounds(candidates, repeats):
  """Times candidates, {name: function without arguments}; returns {name: seconds of each round, float [repeats]}."""
  seconds = {name: [] for name in candidates}
  for round_ in range(repeats):
    order = list(candidates)
    for name in order[round_ % len(order) :] + order[: round_ % len(order)]:
      start = time.perf_counter()
      candidates[name]()
      seconds[name].append(time.perf_counter() - start)
  return {name: np.array(values) for name, values in seconds.items()}


def _ratios(seconds):
  """Returns {name: {"seconds", "ratio"}} for {name: seconds of each round}."""
  first = next(iter(seconds.values()))
  return {name: {"seconds": _range(values), "ratio": _range(first / values)} for name, values in seconds.items()}


def _range(values):
  """Returns [minimum, median, maximum]."""
  return [float(value) for value in (np.min(values), np.median(values), np.max(values))]


def _phase(config, features, names):
  """Returns the phase of --recipe=lp_ft that fine-tunes the stages `names`."""
  config = dataclasses.replace(config, train_stages="all", epochs=max(2, config.epochs), batch_tokens=0)
  facts = planning.facts(config, features.data, features.model, features.devices)
  phase = recipes.lp_ft(config, facts, features.devices.replicas)[-1]
  learning_rates = {name: phase.optimizer.learning_rates[name] for name in names}
  return phase.replace(train_stages=tuple(names), learning_rates=learning_rates)


def _compiled(features, phase, network):
  """Returns a copy of `network` with the same variables, compiled for `phase`."""
  model = features.model
  stages.set_trainable(model, phase)
  with features.devices.scope():
    copy = keras.Model(network.input, network.output)
    PhaseSteps(copy, phase, model, features.data.train_targets).compile()
  copy.steps_per_execution = 1
  return copy


def _whole_network(config, features, phase):
  """Returns (network, dataset) that run the whole backbone in every step."""
  phase_feed = feed.whole_network(phase, features, config.seed)
  return _compiled(features, phase, phase_feed.network), phase_feed.dataset()


def _fit(network, dataset, steps, epochs=1):
  """Returns a function that trains for `epochs` of `steps` batches. It is called once here, which traces the step."""

  def train():
    network.fit(dataset, steps_per_epoch=steps, epochs=epochs, verbose=0, shuffle=False)

  train()
  return train


def _trained_stages(model):
  """Returns {description: names of the stages that train}, from all stages to the head alone."""
  names = stages.that_can_train(model)
  return {
    "everything": [*names, HEAD],
    f"top half ({names[len(names) // 2]} and above)": [*names[len(names) // 2 :], HEAD],
    f"top stage ({names[-1]})": [names[-1], HEAD],
    "head only": [HEAD],
  }


def stage_steps(config, features, repeats, steps):
  """Training steps of the whole network, with more and more frozen stages."""
  _, dataset = _whole_network(config, features, _phase(config, features, [HEAD]))
  batches = list(dataset.take(steps))

  def on_batches(network):
    def train():
      for inputs, targets in batches:
        network.train_on_batch(inputs, targets)

    train()
    return train

  candidates = {}
  for name, members in _trained_stages(features.model).items():
    # `on_batches` traces the step, so it must follow before the next phase sets what trains.
    network, _ = _whole_network(config, features, _phase(config, features, members))
    candidates[name] = on_batches(network)
  return _side_by_side(candidates, repeats)


def head_epochs(config, features, repeats, steps):
  """An epoch of the head, and a whole probe with validation: features computed in every epoch, or read from disk."""
  phase = _phase(config, features, [HEAD])
  # Neither candidate predicts the test split.
  split = dataclasses.replace(features.data.split, test=features.data.test[:0])
  features = Features(
    features.model,
    dataclasses.replace(features.data, split=split),
    *(features.devices, features.store, features.batch_size, features.clock),
  )
  data, head = features.data, features.model.head
  network, dataset = _whole_network(config, features, phase)
  steps = min(steps, phase.schedule.steps_per_epoch)
  online = _fit(network, dataset, steps)
  start = time.perf_counter()
  frozen = features.frozen()
  extraction = time.perf_counter() - start
  heads.standardize(head, frozen[data.train])
  with features.devices.scope():
    stages.set_trainable(features.model, phase)
    copy = keras.Model(head.input, head.output)
    PhaseSteps(copy, phase, features.model, data.train_targets).compile()
  stored = feed.head_alone(phase, features, None, config.seed).dataset()
  cached = _fit(copy, stored, phase.schedule.steps_per_epoch, PROBE_EPOCHS)
  validate = {
    "validation online": lambda: features.logits(data.validation),
    "validation cached": lambda: features.head_logits(data.validation),
  }
  for answer in validate.values():
    answer()
  seconds = _rounds({"online": online, "cached": cached} | validate, repeats)
  epochs = {
    "online": seconds["online"] * phase.schedule.steps_per_epoch / steps,
    "cached": seconds["cached"] / PROBE_EPOCHS,
  }
  probes = {name: PROBE_EPOCHS * (epoch + seconds[f"validation {name}"]) for name, epoch in epochs.items()}
  probes["cached"] += extraction
  epoch_names = f"epoch online ({steps} of {phase.schedule.steps_per_epoch} batches, scaled)", "epoch from the cache"
  probe_names = f"{PROBE_EPOCHS} epochs online (scaled)", f"extraction and {PROBE_EPOCHS} epochs from the cache"
  return _ratios(dict(zip(epoch_names, epochs.values()))) | _ratios(dict(zip(probe_names, probes.values())))


def trunk_steps(config, features, repeats, steps):
  """Training steps of the top stages: lower stages computed in every step, or once; texts also at a fixed length."""
  names = stages.that_can_train(features.model)
  timings = {}
  for lowest in dict.fromkeys([names[-1], names[-min(2, len(names))], names[-max(1, len(names) // 3)]]):
    timings |= _from_stage(config, features, lowest, repeats, steps)
  return timings


def _from_stage(config, features, lowest, repeats, steps):
  names = stages.that_can_train(features.model)
  phase = _phase(config, features, [*names[names.index(lowest) :], HEAD])
  from_trunk = feed.from_trunk(phase, features, config.seed)
  if from_trunk is None:
    log.info("trunk: nothing is compared below stage %s, see above", lowest)
    return {}
  network, similar = _whole_network(config, features, phase)
  candidates = {
    "in every step": _fit(network, similar, steps),
    "read": _fit(_compiled(features, phase, from_trunk.network), from_trunk.dataset(), steps),
  }
  length = features.model.backbone.preprocess.max_length
  if features.data.lengths is not None:
    candidates["fixed"] = _fit(network, fixed_lengths(phase, features, length, config.seed), steps)
  seconds = _rounds(candidates, repeats)
  read, online = seconds["read"], seconds["in every step"]
  timings = _ratios({f"from {lowest}, the rest in every step": online, f"from {lowest}, the rest read": read})
  if "fixed" in seconds:
    names = f"from {lowest}, all at fixed length {length}", f"from {lowest}, read in batches of similar length"
    timings |= _ratios(dict(zip(names, (seconds["fixed"], read))))
  return timings


def length_steps(config, features, repeats, steps):
  """Full fine-tuning of texts: at a fixed length, in batches of similar length, and in batches of --batch_tokens."""
  backbone = features.model.backbone
  length = backbone.preprocess.max_length
  if not length:
    log.info("lengths: %s takes no tokens", config.backbone)
    return {}
  phase, tokens = _phase(config, features, [*backbone.stages, HEAD]), config.batch_tokens
  network, similar = _whole_network(config, features, phase)
  candidates = {
    f"fixed length {length}": _fit(network, fixed_lengths(phase, features, length, config.seed), steps),
    "batches of similar length": _fit(network, similar, steps),
  }
  if tokens:
    mean = planning.facts(config, features.data, features.model, features.devices).batch_examples
    by_tokens = phase.replace(batch_tokens=tokens, batch_size=round(mean))
    filled = feed.whole_network(by_tokens, features, config.seed).dataset()
    name = f"batches of up to {tokens:,} tokens, {mean:.0f} texts"
    candidates[name] = _fit(network, filled, max(1, round(steps * phase.inputs.batch_size / mean)))
  return _side_by_side(candidates, repeats)


def fixed_lengths(phase: Phase, features: Features, length: int, seed: int) -> tf.data.Dataset:
  """Returns the endless dataset of the training texts in random order, all padded to `length` tokens."""
  data, preprocess = features.data, features.model.backbone.preprocess
  raw, targets = tf.constant(data.inputs[data.train].array(), tf.string), tf.constant(data.train_targets)
  order = pipeline.index_batches(len(data.train), phase.inputs.batch_size, seed)
  batches = order.map(lambda i: (_padded(preprocess(tf.gather(raw, i)), length), tf.gather(targets, i)))
  return pipeline.ahead(batches)


def _padded(inputs, length):
  def pad(x):
    return tf.pad(x, [*[[0, 0]] * (len(x.shape) - 1), [0, length - tf.shape(x)[-1]]])

  return {name: pad(x) for name, x in inputs.items()}


def engine_batches(config, features, repeats, steps):
  """Frozen features of raw examples, computed by TensorFlow and by OpenVINO (bfloat16 is only measured, never used)."""
  network, rows = features.model.features, features.data.train[: steps * features.batch_size]
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
  exact, *others = (features.predict(engine, rows) for engine in networks.values())
  for name, outputs in zip(list(networks)[1:], others):
    difference = inference_engine.difference(outputs, exact)
    log.info("features of %s differ by %.2g of their standard deviation", name, difference)
  candidates = {
    f"{name}, {len(rows)} examples": functools.partial(features.predict, engine, rows)
    for name, engine in networks.items()
  }
  return _side_by_side(candidates, repeats)


PARTS = {
  "stages": stage_steps,
  "head": head_epochs,
  "trunk": trunk_steps,
  "lengths": length_steps,
  "engines": engine_batches,
}
