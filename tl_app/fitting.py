"""One phase: set stages, compile, feed, fit, keep the best epoch, audit."""

import logging

import keras

from tl_app import callbacks, heads, optimizers, recipes, session, stages, trunk
from tl_app import model as model_lib
from tl_app.data import pipeline

log = logging.getLogger(__name__)


def fit(run, phase):
  """Runs one phase: set stages, compile, feed, fit, keep the best epoch, audit.

  Returns:
    A function that puts the averaged weights into the model, or None where the phase keeps none.
  """
  model = run.model
  with run.clock("train"), run.strategy.scope():
    if phase.fresh_head:
      heads.reset(model.head, model.task.initial_bias(run.labels[run.split.train]))
    stages.set_trainable(model, phase)
    before = stages.state(model, phase)
    keep = _solve(run, phase) if phase.solver != "linear" else _descend(run, phase)
    changes = stages.audit(model, before)
  moved = ", ".join(f"{name} {c['changed']}/{c['variables']}" for name, c in changes.items() if c["changed"])
  log.info("audit of phase %s: changed variables: %s; all others identical to the bit", phase.name, moved or "none")
  return keep


def _solve(run, phase):
  """Fits the head by scikit-learn on the frozen features."""
  features, train, validation = session.frozen_features(run), run.split.train, run.split.validation
  tried = heads.solve(
    run.model.head,
    phase.solver,
    run.model.task,
    features[train],
    features.targets(run.labels, train),
    features[validation],
    run.labels[validation],
    lambda logits: features.by_example(logits, validation),
  )
  log.info("%s: %s", phase.solver, "; ".join(", ".join(f"{k} {v:.4g}" for k, v in t.items()) for t in tried))


def _descend(run, phase):
  """Fits by gradient descent and puts the best epoch back; returns as `fit`."""
  network, dataset, validation_logits = _feed(run, phase)
  compile_for(network, phase, run.model)
  changing = stages.changing(run.model, [phase])
  keep = callbacks.KeepBest(changing, phase.monitor, phase.patience)
  network.fit(
    dataset,
    epochs=phase.epochs,
    steps_per_epoch=phase.steps_per_epoch,
    callbacks=_watchers(run, phase, validation_logits, keep),
    verbose=callbacks.verbosity() if phase.backbone_trains else 0,
    shuffle=False,  # the dataset is
  )
  if keep.averaged is None:
    return None
  return lambda: [variable.assign(value) for variable, value in zip(changing, keep.averaged)]


def _feed(run, phase):
  """Returns (network to fit, endless dataset, function giving the validation logits)."""
  train, validation = run.split.train, run.split.validation
  if phase.backbone_trains:
    below = trunk.features(run, phase)
    if below:
      dataset = below.for_training(train, run.labels[train], phase.batch_size, run.config.seed)
      return below.network, dataset, lambda: below.logits(validation)
    dataset = session.training_batches(run, phase.batch_size)
    network = model_lib.training_network(run.model, phase.train_stages)
    return network, dataset, lambda: session.predict(run, run.model.network, validation)
  features = session.frozen_features(run)
  rows = features.rows_of(phase.batch_size, train)
  dataset = pipeline.for_features(features[train], features.targets(run.labels, train), rows, run.config.seed)
  return run.model.head, dataset, lambda: session.head_logits(run, validation)


def compile_for(network, phase, model):
  """Compiles `network` for one phase; a fresh optimizer, since its slots belong to other variables and rates."""
  stage_of = {id(v): name for name, variables in model.stages.items() for v in variables}
  optimizer = optimizers.StagedAdamW(
    optimizers.WarmupCosine(phase.steps, phase.warmup_steps),
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
  network.compile(
    optimizer=optimizer,
    loss=model.task.loss(phase.label_smoothing),
    metrics=model.task.watched(),
    jit_compile=False,
    # A step of the head alone is far shorter than the way into Python and back. TensorFlow cannot run Keras' loop over
    # steps on several devices: a placeholder in its branches stays unfed.
    steps_per_execution=1 if phase.backbone_trains or replicas > 1 else min(phase.steps_per_epoch, 256),
  )


def _watchers(run, phase, validation_logits, keep):
  """Returns the callbacks of a phase; validation comes first, since the others read its figures."""
  watching = [
    callbacks.StopAtNaN(phase),
    callbacks.Validate(validation_logits, run.labels[run.split.validation], run.model.task),
    keep,
    callbacks.JsonLog(run.paths.log, phase),
    keras.callbacks.TensorBoard(str(run.paths.tensorboard / phase.name), write_graph=False),
  ]
  return watching + ([] if phase.backbone_trains else [callbacks.SparseProgress(phase, log.info)])
