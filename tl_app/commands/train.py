"""One run, from a `Config` to a proven SavedModel."""

import dataclasses
import errno
import logging
import os
import shutil
import time

import keras
import numpy as np

from tl_app import backbones, data, files, tasks
from tl_app import config as config_lib
from tl_app import workdir as workdir_lib
from tl_app.assets import Assets
from tl_app.backbones.backbone import parameters
from tl_app.checking import summary
from tl_app.commands import finished_run
from tl_app.compute import devices
from tl_app.config import rules
from tl_app.data import copies, modalities
from tl_app.data.examples import strings
from tl_app.data.splitting import splits
from tl_app.errors import RunFailed
from tl_app.features import session
from tl_app.features.session import Session
from tl_app.model import heads, stages
from tl_app.model import model as model_lib
from tl_app.model.variables import values
from tl_app.recipes import recipes
from tl_app.report import machine, page, predictions
from tl_app.serving import parity
from tl_app.training import batch_size, fit, image_size, input_profile, planning, selection

log = logging.getLogger(__name__)


def train_and_evaluate(config, workdir, recipe=None):
  """Runs `config` in `workdir` and returns the metrics, as written to metrics.json.

  Args:
    config: `Config`.
    workdir: directory of the run.
    recipe: function (config, facts, num_devices) -> list of `recipes.Phase`, in place of --recipe. It starts with
      `recipes.probe`, which the ladder measures the others against.

  Raises:
    UserError: something the user must change; no result is written.
    RunFailed: the run itself failed: NaN, audit, parity.
  """
  start, config = time.monotonic(), dataclasses.replace(config, workdir=str(workdir))
  config_lib.validate(config)
  spec = backbones.resolve(config.backbone)
  with workdir_lib.claim(workdir, config) as paths:
    run = prepare(config, paths, spec)
    if config.max_minutes:
      run.deadline = start + 60 * config.max_minutes
      image_size.settle(run)
    phases = planning.plan(run, recipe or recipes.plan)
    check(run)
    rung, figures = climb(run, batch_size.settle(run, phases))
    metrics, outputs = evaluate(run, rung)
    metrics |= figures
    save(run)
    if config.export:
      metrics["parity"] = export(run, outputs)
    files.write_json(paths.metrics, metrics | machine.describe(run.seconds, run.strategy.num_replicas_in_sync))
    page.write(paths.root, run.examples)
    return files.read_json(paths.metrics)


def prepare(config, paths, spec):
  """Loads examples, splits them, loads the backbone and puts a head on it."""
  strategy = devices.strategy(config.strategy, config.num_devices)
  keras.utils.set_random_seed(config.seed)
  assets = Assets(config.cache_dir, config.offline)
  examples = data.load(config, assets)
  task, why = tasks.choose(config, examples)
  examples = dataclasses.replace(examples, classes=strings(task.codec.classes(examples.labels)))
  split = splits.make(examples, config, named=task.has_class_names)
  task = task.fit(examples.labels[split.train])
  for note in split.notes:
    log.warning("%s", note)
  files.write_json(paths.splits, split.manifest())
  with strategy.scope():
    model = model_lib.load(config, spec, assets, task, config.max_length)
  modality = modalities.of(examples.modality)
  rules.check(rules.BACKBONE, config, modality, modalities.other_flags(modality.name), model.backbone)
  used = np.concatenate([split.train, split.validation, split.test])
  targets = task.codec.targets(examples.labels[used])
  labels = np.zeros((len(examples), *targets.shape[1:]), targets.dtype)
  labels[used] = targets
  augment = None
  if config.augment != "none":
    augment = modality.augmentation(config.augment, examples.inputs[split.train], config.seed)
  made = copies.make(examples, split.train, augment, config.augment_copies) if config.augment_copies else None
  return Session(config, paths, assets, strategy, examples, labels, split, model, why, augment, made)


def check(run):
  """Looks for faults in the data that need no network to be seen, says the worst and writes findings.json."""
  task = run.model.task
  subject = summary.subject(run.examples, run.split, task)
  start = time.monotonic()
  found = summary.cheap(subject, run.model.backbone.preprocess)
  for line in summary.start_lines(found):
    log.warning("%s", line)
  seconds = {"look": time.monotonic() - start}
  not_checked = {
    "label_noise": "python -m tl_app.check" if task.single_label else f"--task={task.name} has no check of it"
  }
  files.write_json(run.paths.findings, summary.as_json(subject, found, seconds, not_checked))


def climb(run, phases):
  """Trains the phases and leaves the best rung in the model.

  Returns:
    (name of the rung that ships, {"candidates", "selection_reason", "selected_phase"} for metrics.json).
  """
  train, validation, task = run.split.train, run.split.validation, run.model.task
  labels = run.labels[validation]
  if not any(phase.backbone_trains for phase in phases):
    input_profile.of_forward_passes(run, phases[0])
  features = session.frozen_features(run)
  marks = selection.marks(
    *(features[train], features.targets(run.labels, train), features[validation], labels, task),
    by_example=lambda outputs: features.by_example(outputs, validation),
  )
  figures = {name: {task.metrics.primary_metric: score} for name, score in marks.items()}
  variables = stages.changing(run.model, phases)
  heads.standardize(run.model.head, features[train])
  heads.reset(run.model.head, task.loss.initial_bias(run.labels[train]))
  rungs, tuned, averaged = [], [], None
  for index, phase in enumerate(phases):
    if phase.fresh_features and not _moved(run, phases[1:index]):
      continue
    made = fit.fit(run, phase, left=sum(later.backbone_trains for later in phases[index:]))
    if phase is phases[0]:
      logits = session.head_logits(run, validation)
      rungs.append(selection.Rung("probe", logits, values(variables), phase.name))
    elif run.cut.get(phase.name, phase):
      averaged = made and (made, phase)
      # Contrast leaves a head that knows nothing of what has become of the features.
      if phase.objective == recipes.LOSS or phase is phases[-1]:
        tuned = [selection.better([*tuned, _fine_tuned(run, "fine_tuned", variables, phase)], labels, task)]
  planning.note_cuts(run)
  rungs += tuned
  if averaged:
    put, phase = averaged
    put()
    rungs.append(_fine_tuned(run, "averaged", variables, phase))
  best, why, of_rungs = selection.choose(rungs, labels, task)
  for variable, value in zip(variables, best.values):
    variable.assign(value)
  run.model.task = task.tune_thresholds(best.logits, labels)
  listed = ", ".join(
    f"{name} {values[task.metrics.primary_metric]:.4f}" for name, values in (figures | of_rungs).items()
  )
  log.info("candidates, validation %s: %s", task.metrics.primary_title, listed)
  log.info("%s", why)
  return best.name, {"candidates": figures | of_rungs, "selection_reason": why, "selected_phase": best.phase}


def _moved(run, phases):
  """Whether --max_minutes has left anything of `phases`, but for those that only fit a head to what others give."""
  return any(run.cut.get(phase.name, phase) for phase in phases if not phase.fresh_features)


def _fine_tuned(run, name, variables, phase):
  logits = session.predict(run, run.model.network, run.split.validation)
  if not np.isfinite(logits).all():
    raise RunFailed(f"{name}: the answers on the validation split are not finite: lower --learning_rate")
  return selection.Rung(name, logits, values(variables), phase.name)


def evaluate(run, rung):
  """Measures what ships on the validation and test splits and writes the test predictions.

  Returns:
    (the metrics, float64 [test examples, outputs] what the model answers on the test split).
  """
  task, metrics, outputs = run.model.task, {}, {}
  with run.clock("evaluate"):
    for name, indices in (("test", run.split.test), ("validation", run.split.validation)):
      logits = (
        session.head_logits(run, indices) if rung == "probe" else session.predict(run, run.model.network, indices)
      )
      metrics[name] = task.metrics.compute_metrics(logits, run.labels[indices])
      outputs[name] = task.answers.outputs(logits)
    test = run.examples.take(run.split.test)
    rows = task.answers.rows(test.ids, test.labels, outputs["test"])
    predictions.write(run.paths.predictions, task.answers.columns, rows)
  metrics |= task.metrics.baseline(run.labels[run.split.train], run.labels[run.split.test])
  metrics["task"], metrics["primary_metric"] = task.name, task.metrics.primary_metric
  metrics["preprocessing"] = files.read_json(run.paths.plan)["preprocessing"]
  metrics["selected"] = "probe" if rung == "probe" else "fine_tuned"
  return metrics, outputs["test"]


def save(run):
  """Writes the weights that ship.

  Raises:
    OSError: no space is left for them (HDF5 itself would end the process).
  """
  needed = 4 * parameters(run.model.network.variables)
  with files.atomic_path(run.paths.weights) as new:
    if shutil.disk_usage(new.parent).free < 1.1 * needed:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run.paths.weights))
    run.model.network.save_weights(new)
  files.write_json(run.paths.task, run.model.task.get_config())


def export(run, outputs):
  """Exports what was saved and compares it with the test split's `outputs`; returns the proof."""
  with run.clock("export"), parity.Client(run.examples.modality) as client:
    return parity.export_and_prove(
      finished_run.restore(run.paths, run.config, run.assets),
      run.paths.export,
      run.examples.inputs[run.split.test],
      outputs,
      client,
      session.inference_batch(run),
    )
