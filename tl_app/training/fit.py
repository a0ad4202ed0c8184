"""One phase: set stages, compile, feed, fit, keep the best epoch, audit."""

import dataclasses
import logging
import math
import time

import keras
import tensorflow as tf

from tl_app.compute import precision, time_budget
from tl_app.data import pipeline
from tl_app.features import session, trunk
from tl_app.model import audit, graphs, heads, stages
from tl_app.preprocessing import text
from tl_app.recipes import recipes
from tl_app.training import callbacks, contrastive, input_profile, optimizers, train_steps

log = logging.getLogger(__name__)


def fit(run, phase, left=1):
  """Runs one phase: set stages, compile, feed, fit, keep the best epoch, audit.

  Args:
    run: the `Session`.
    phase: the `Phase`.
    left: phases that --max_minutes is shared among, this one included.

  Returns:
    A function that puts the averaged weights into the model, or None where the phase keeps none.
  """
  model, narrowed = run.model, None
  with run.clock("train"), run.strategy.scope():
    features = None
    if phase.fresh_features:
      features = session.fresh_features(run)
      heads.standardize(model.head, features[run.split.train])
    if phase.fresh_head:
      heads.reset(model.head, model.task.loss.initial_bias(run.labels[run.split.train]))
    stages.set_trainable(model, phase)
    before = audit.state(model, phase)
    if phase.solver != "adamw":
      keep = _solve(run, phase, features)
    else:
      keep, narrowed = _descend(run, phase, features, left, before)
    if phase.name in run.cut and run.cut[phase.name] is None:
      return None
    changes = {} if narrowed else audit.audit(model, before)
  if narrowed:
    return fit(run, narrowed, left)
  moved = ", ".join(f"{name} {c['changed']}/{c['variables']}" for name, c in changes.items() if c["changed"])
  log.info("audit of phase %s: changed variables: %s; all others identical to the bit", phase.name, moved or "none")
  return keep


def _solve(run, phase, features):
  """Fits the head by scikit-learn on `features`, float32 [n, feature_size], or on the frozen ones if None."""
  features, train = _examples_of(run, features)
  validation = run.split.validation
  tried = heads.solve(
    run.model.head,
    phase.solver,
    run.model.task,
    heads.LabelledFeatures(features[train], features.targets(run.labels, train)),
    heads.LabelledFeatures(
      features[validation], run.labels[validation], lambda logits: features.by_example(logits, validation)
    ),
  )
  log.info("%s: %s", phase.solver, "; ".join(", ".join(f"{k} {v:.4g}" for k, v in t.items()) for t in tried))


def _descend(run, phase, features, left, before):
  """Fits by gradient descent and puts the best epoch back; `features` as in `_solve`, `before` the `audit.State`.

  Returns:
    (what `fit` returns, None); or (None, the `Phase` to take instead), and nothing has been fitted.
  """
  network, parts, validation_logits = _feed(run, phase, features, left)
  network = own_step(network, phase)
  dataset = pipeline.whole(parts)
  way = _way(run, phase, network, dataset)
  if phase.backbone_trains:
    input_profile.of_steps(run, phase.name, parts, way, network, compiler(run, phase, network))
  if run.deadline and phase.backbone_trains:
    cut, narrowed = _cut(run, phase, network, dataset, way, left)
    if cut is None:
      return None, narrowed
    if cut is not phase and (cut.mixes or cut.objective == recipes.CONTRAST):
      # Their batches depend on the number of steps.
      dataset = pipeline.whole(_feed(run, cut, features, left)[1])
    phase = cut
  compiler(run, phase, network)(way)
  changing = stages.changing(run.model, [phase])
  keep = callbacks.KeepBest(changing, phase.monitor, phase.patience, lambda: audit.has_moved(run.model, before))
  with precision.computing(network, way.precision):
    network.fit(
      dataset,
      epochs=phase.epochs,
      steps_per_epoch=phase.steps_per_epoch,
      callbacks=_watchers(run, phase, _exact(network, validation_logits), keep),
      verbose=callbacks.verbosity() if phase.backbone_trains else 0,
      shuffle=False,  # the dataset is
    )
  if keep.averaged is None:
    return None, None
  return lambda: [variable.assign(value) for variable, value in zip(changing, keep.averaged)], None


def _way(run, phase, network, dataset):
  """Returns the `precision.Way` of a phase."""
  if not phase.backbone_trains:
    return precision.PLAIN
  config, num_devices = run.config, run.strategy.num_replicas_in_sync
  gpu = bool(tf.config.list_logical_devices("GPU"))
  hurries = run.deadline and run.deadline - time.monotonic() < precision.LEAST_SECONDS
  return precision.choose(
    precision.candidates(config, run.model.backbone, gpu, num_devices),
    network,
    compiler(run, phase, network),
    dataset,
    0 if hurries else phase.steps,
    text.shapes(run.model.backbone.preprocess),
  )


def compiler(run, phase, network):
  """Returns a function, `precision.Way` -> None, that compiles `network` for a phase."""
  return lambda way: compile_for(network, phase, run.model, way, targets=run.labels[run.split.train])


def _cut(run, phase, network, dataset, way, left):
  """Returns (the phase as --max_minutes leaves it, None), or (None, the `Phase` with fewer stages that it leaves more
  of, if there is one); and notes it in `run.cut`."""
  step = _seconds_a_step(run, phase, network, dataset, way)
  seconds, cut = _shortened(run, phase, step, left)
  if cut is phase:
    return phase, None
  narrowed = None
  if not (_is_whole(phase, cut) or phase.name in run.cut):
    narrowed = _narrowed(run, phase, step, left)
    stages.set_trainable(run.model, narrowed or phase)
  run.cut[phase.name] = narrowed or cut
  if narrowed:
    names = ", ".join(name for name in narrowed.train_stages if name != recipes.HEAD)
    then = f"no epoch of all its stages fits; {names} train, the stages below stay frozen"
  else:
    steps = f"{cut.epochs} x {cut.steps_per_epoch} steps are done" if cut else "nothing is left of it"
    then = f"{steps} in place of {phase.epochs} x {phase.steps_per_epoch}"
  log.warning(
    "--max_minutes=%g: phase %s has %.0f s at %.2f s a step: %s",
    *(run.config.max_minutes, phase.name, max(seconds, 0), step, then),
  )
  return (None, narrowed) if narrowed else (cut, None)


def _narrowed(run, phase, step, left):
  """Returns the phase with as many of its upper stages as an epoch fits for; of the top one alone at least a part.

  `step` is the time of one with all its stages.
  """
  of_phase = stages.selected(run.model, phase).items()
  trained = [name for name, variables in of_phase if variables and name != recipes.HEAD]
  narrower = list(time_budget.fewer_stages(phase, trained))
  if not _is_whole(phase, _shortened(run, phase, time_budget.FORWARD * step, left)[1]):
    # No stage is so quick.
    narrower = narrower[-1:]
  cut = None
  for candidate in narrower:
    stages.set_trainable(run.model, candidate)
    _, cut = _shortened(run, candidate, _seconds_online(run, candidate), left)
    if _is_whole(phase, cut):
      break
  return candidate if cut and cut.epochs > 1 else cut


def _is_whole(phase, cut):
  """Whether at least an epoch is left of a phase."""
  return cut is not None and cut.steps_per_epoch == phase.steps_per_epoch


def _seconds_online(run, phase):
  """Returns the seconds of a step that runs the whole backbone, in the parts that memory holds."""
  network, dataset = online(run, phase)
  return _seconds_a_step(run, phase, own_step(network, phase), dataset, precision.PLAIN)


def own_step(network, phase):
  """Returns `network`, or a `keras.Model` over its layers, whose steps are those of a phase: in parts, or by size."""
  network = train_steps.in_parts(network, phase.microbatches, phase.longest)
  return train_steps.of_size(network, phase.batch_size if phase.batch_tokens else 0)


def _seconds_a_step(run, phase, network, dataset, way):
  # One round traces, one is measured: what this takes is taken from the phase.
  return precision.measure(way, network, compiler(run, phase, network), dataset, rounds=2)[0]


def _shortened(run, phase, step, left):
  """Returns (seconds left for a phase of steps of `step` seconds, what `time_budget.shorten` returns)."""
  train, answered, test = (
    math.ceil(len(part) / phase.batch_size) for part in (run.split.train, run.split.validation, run.split.test)
  )
  # After contrast the head is found on new features of the training split.
  closing = 2 * answered + test + (train if phase.objective == recipes.CONTRAST else 0)
  seconds = time_budget.seconds_left(run.deadline, time.monotonic(), step, closing, run.config.export, left)
  return seconds, time_budget.shorten(phase, step, seconds, answered)


def _exact(network, logits):
  """Returns the function `logits`, or None, that computes in float32 while `network` trains in less."""

  def compute():
    with precision.computing(network, precision.FLOAT32):
      return logits()

  return logits and compute


def _feed(run, phase, features, left):
  """Returns (network to fit, the steps of its endless stream, function giving the validation logits or None
  where there are none)."""
  validation = run.split.validation
  if phase.objective == recipes.CONTRAST:
    return *_online(run, phase), None
  if phase.backbone_trains:
    below = _below(run, phase, left)
    if below:
      return below.network, below.training_parts(phase), lambda: below.logits(validation)
    return *_online(run, phase), lambda: session.predict(run, run.model.network, validation)
  features, train = _examples_of(run, features)
  rows, classes = features.rows_of(phase.batch_size, train), session.drawn_classes(run, phase, train)
  targets = features.targets(run.labels, train)
  parts = pipeline.feature_steps(features[train], targets, rows, run.config.seed, classes)
  return run.model.head, parts, lambda: session.head_logits(run, validation, features)


def _below(run, phase, left):
  """Returns what `trunk.features` gives for the epochs that --max_minutes leaves: a single one repays nothing new."""
  splits = run.model.backbone.can_split(graphs.lowest_active(run.model, phase))
  if run.deadline and splits and phase.epochs > 1 and not phase.mixes:
    _, cut = _shortened(run, phase, _seconds_online(run, phase), left)
    if cut is None or cut.epochs < 2:
      phase = dataclasses.replace(phase, epochs=1)
  return trunk.features(run, phase)


def _examples_of(run, features):
  """Returns (`FeatureRows`, places of the training examples in them): the frozen ones and all copies where None."""
  return (session.frozen_features(run), run.places.ravel()) if features is None else (features, run.split.train)


def online(run, phase):
  """Returns (network to fit, endless dataset) that run the whole backbone in every step."""
  network, parts = _online(run, phase)
  return network, pipeline.whole(parts)


def _online(run, phase):
  top = keras.layers.UnitNormalization(name=heads.L2_NORMALIZED) if phase.objective == recipes.CONTRAST else None
  return graphs.training_network(run.model, phase, top), session.training_parts(run, phase)


def compile_for(network, phase, model, way=precision.PLAIN, schedule=None, targets=None):
  """Compiles `network` for one phase; a fresh optimizer, since its slots belong to other variables and rates.

  Args:
    network: `keras.Model` to fit.
    phase: the `Phase`.
    model: the run's `Model`, whose variables `network` shares.
    way: the `precision.Way` of its steps.
    schedule: gives the rates as shares of the peak ones; None: warm-up and cosine.
    targets: [n, ..] of the training split; only a loss that weighs classes asks for them.
  """
  stage_of = {id(v): name for name, variables in model.stages.items() for v in variables}
  optimizer = optimizers.StagedAdamW(
    schedule or optimizers.WarmupCosine(phase.steps, phase.warmup_steps, phase.accumulate_steps),
    rate_of=lambda variable: phase.learning_rates[stage_of[id(variable)]],
    decays=stages.decays,
    weight_decay=phase.weight_decay,
    rank_of=lambda variable: phase.lora_rank if stage_of[id(variable)] != recipes.HEAD else 0,
    clip_norm=phase.clip_norm,
    gradient_accumulation_steps=phase.accumulate_steps if phase.accumulate_steps > 1 else None,
    use_ema=phase.ema > 0,
    ema_momentum=phase.ema or None,
  )
  replicas = network.distribute_strategy.num_replicas_in_sync
  # Now, and not while `fit` traces: low-rank factors start from the values of their kernels.
  optimizer.build(network.trainable_variables)
  if way.precision == "mixed_float16":
    # Keras scales the loss by itself only where the model as a whole has this policy.
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
  network.compile(
    optimizer=optimizer,
    loss=_loss(model.task, phase, targets),
    metrics=None if phase.objective == recipes.CONTRAST else model.task.loss.keras_metrics(),
    jit_compile=way.jit,
    # A step of the head alone is far shorter than the way into Python and back. TensorFlow cannot run Keras' loop over
    # steps on several devices: a placeholder in its branches stays unfed.
    steps_per_execution=1 if phase.backbone_trains or replicas > 1 else min(phase.steps_per_epoch, 256),
  )


def _loss(task, phase, targets):
  if phase.objective == recipes.CONTRAST:
    return contrastive.SupervisedContrast()
  if phase.mixes or phase.imbalance not in ("none", "balanced"):
    return task.loss.weighted_loss(phase.label_smoothing, phase.imbalance, targets)
  return task.loss.loss(phase.label_smoothing)


def _watchers(run, phase, validation_logits, keep):
  """Returns the callbacks of a phase; validation comes first, since the others read its figures."""
  labels, task = run.labels[run.split.validation], run.model.task
  validated = [callbacks.Validate(validation_logits, labels, task), keep] if validation_logits else []
  watching = [
    callbacks.StopAtNaN(phase),
    *validated,
    callbacks.JsonLog(run.paths.log, phase),
    keras.callbacks.TensorBoard(str(run.paths.tensorboard / phase.name), write_graph=False),
  ]
  if not phase.backbone_trains:
    return [*watching, callbacks.SparseProgress(phase, log.info)]
  closing = time_budget.CLOSING_SECONDS[run.config.export]
  return watching + ([callbacks.StopInTime(run.deadline - closing)] if run.deadline else [])
