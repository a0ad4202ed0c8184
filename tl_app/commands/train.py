"""Runs training from a `Config` to a checked SavedModel."""

import contextlib
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable

import keras

from tl_app import backbones, files
from tl_app import config as config_lib
from tl_app import workdir as workdir_lib
from tl_app.assets import Assets
from tl_app.backbones.spec import BackboneSpec
from tl_app.checking import summary
from tl_app.commands import best_backbone, diagnosis, feature_choices, finished_run, loading, selected_model, workers
from tl_app.compute import devices as devices_lib
from tl_app.config import Config, rules
from tl_app.data import modalities
from tl_app.features import frozen
from tl_app.features.frozen import Features
from tl_app.recipes import recipes
from tl_app.report import facts, machine, model_card, page
from tl_app.serving import handover, parity
from tl_app.training import (
  adaptation,
  batch_size,
  compiling,
  disk_space,
  image_size,
  input_profile,
  out_of_distribution,
  phases,
  plan_text,
  planning,
)
from tl_app.training.phase_rules import flags_without_effect
from tl_app.training.planning import Plan
from tl_app.training.time_limit import TimeLimit
from tl_app.workdir import Record

log = logging.getLogger(__name__)


def train_and_evaluate(config: Config, workdir: str | pathlib.Path, recipe: Callable | None = None) -> dict:
  """Runs `config` in a workdir and returns the metrics, as written to metrics.json.

  Args:
    config: the `Config`.
    workdir: directory of the run.
    recipe: function (config, facts, num_devices) -> list of `Phase`, in place of --recipe. The list starts with
      `recipes.probe`, with which model selection compares the other phases.

  Raises:
    UserError: something the user must change.
    RunFailed: the run itself failed: a loss is not finite, or the audit or the export check failed.
  """
  start, config = time.monotonic(), dataclasses.replace(config, workdir=str(workdir))
  config_lib.validate(config)
  rules.refuse_unused(config, "train")
  config, chosen = best_backbone.named(config)
  spec = backbones.resolve(config.backbone)
  devices = devices_lib.make(config.strategy, config.num_devices, config.deterministic)
  with devices.watched(), workers.resumable(workdir, config, devices) as record:
    best_backbone.note(chosen, record)
    deadline = start + 60 * config.max_minutes - record.state.elapsed
    limit = TimeLimit(deadline, config.max_minutes, config.export, devices) if config.max_minutes else None
    features, plan = prepare(config, spec, record, recipe or recipes.plan, limit)
    check(features, record)
    announce(plan, config, features)
    log.info("%s", plan_text.to_do(plan, len(features.data.used_rows), config.export))
    if config.profile_input and not any(phase.trains_backbone for phase in plan.phases):
      input_profile.profile_inference(plan.phases[0], features, config.seed, record)
    # Before anything trains: other data may be unreadable.
    out_of_distribution.check(config, features, record)
    target = _target(config, features, record) if config.adapt != "none" else None
    recipe_of = planning.for_other_data(config, plan.phases, plan.batch_size, features, recipe or recipes.plan)
    candidates, results = phases.train(plan.phases, features, config, record, limit, recipe_of)
    # Evaluation and export need the memory.
    compiling.release(features.model)
    adapted = None
    if target is not None:
      adapted = adaptation.adapt(config, plan.phases[0], features, target, record)
      candidates.append(adapted.candidate)
    record.write_plan(plan.with_results(results, features.model).to_json())
    selection = phases.select(candidates, phases.baselines(features, candidates[0]), features, config)
    best = phases.final(selection.best, plan.phases, results, features, record)
    candidates = [best if candidate is selection.best else candidate for candidate in candidates]
    phases.use(best, plan.phases, features)
    calibrated, task, metrics, expected = _measured(config, best, features, record)
    metrics |= {"preprocessing": plan.preprocessing} | selected_model.facts(selection, best)
    if adapted:
      metrics["adaptation"] = adapted.facts | _source_only(adapted, features)

    def write():
      selected_model.save(features.model, task, record)
      tasks_of = {best.name: calibrated}
      selected_model.save_candidates(tasks_of, candidates, plan.phases, features, config.answers, record)
      return finish(config, features, metrics, expected, record)

    return devices.decided(write)


def _measured(config, best, features, record):
  """Returns (calibrated `Task` of the selected model, the one that accepts answers, metrics, answers of the export)."""
  data, task, answers = features.data, features.model.task, config.answers
  held, tested = best.answered(data), selected_model.test_answers(best, features, record)
  calibrated = task.calibrate(held.logits, held.targets, answers)
  fitted = out_of_distribution.fit(answers, best, held, tested, features)
  accepting = out_of_distribution.accepting(calibrated, fitted and fitted.validation, answers)
  tested = fitted.test if fitted else tested
  metrics = selected_model.evaluate(accepting, held, tested, data, record)
  metrics = diagnosis.diagnosed(metrics, accepting, tested, features, config, record)
  metrics = out_of_distribution.measured(metrics, accepting, fitted, features, config, record)
  # Measured on the examples that calibrated, it would look too good.
  metrics["validation"] |= {"calibration": task.cross_fitted(held.logits, held.targets, answers)}
  return calibrated, accepting, metrics, parity.Expected(accepting.answers.outputs(tested.logits), tested.ood_scores)


def prepare(
  config: Config, spec: BackboneSpec, record: Record, recipe: Callable, limit: TimeLimit | None = None
) -> tuple[Features, Plan]:
  """Loads data and backbone, prints what the data are, plans the run and writes plan.json.

  Args:
    config: the `Config`.
    spec: the record of --backbone.
    record: the `Record` of the run.
    recipe: function (config, facts, num_devices) -> list of `Phase`.
    limit: the `TimeLimit`, or None.
  """
  devices = devices_lib.make(config.strategy, config.num_devices, config.deterministic)
  rules.check(rules.DEVICES, config, devices.replicas)
  keras.utils.set_random_seed(config.seed)
  assets = Assets.of(config)
  split, task, reason = loading.examples(config, assets)
  loading.announce(config, split, task, reason)
  diagnosis.check_groups(config, split)
  workers.check_same(config, split.manifest(), devices)
  record.write_splits(split.manifest())
  _check_unchanged(config, split, record)
  spec = loading.with_vocabulary(config, spec, split)
  record.write_vocabulary(spec.vocabulary)
  config = feature_choices.decided(config, spec, split, task, devices, record)
  # What was decided must not change the initial weights: a run that continues decides nothing.
  keras.utils.set_random_seed(config.seed)
  model = loading.model(config, spec, assets, devices, task, split.examples.modality)
  train_data = frozen.with_lengths(loading.training_data(config, split, task), model.backbone)
  if limit:
    whole_size = loading.features(config, model, train_data, devices, workdir_lib.Clock())
    model = image_size.with_smaller_images(config, spec, assets, whole_size, limit, record)
  record.note("started", workdir_lib.place(record.paths))
  record.note("origin", dataclasses.asdict(model.backbone.spec.origin))
  record.note("downloads", [dataclasses.asdict(download) for download in assets.downloads()])
  preprocessing = planning.set_preprocessing(config.inputs, train_data, model)
  preprocessing |= planning.truncation(train_data, model)
  planned = planning.plan_phases(config, train_data, model, devices, recipe)
  features = _with_disk_space(
    loading.features(config, model, train_data, devices, record.clock), planned, config, record
  )
  measured = record.state.decide("batch_size", lambda: dataclasses.asdict(batch_size.choose(config, planned, features)))
  chosen = batch_size.BatchSize(**measured)
  features = features.with_batch_size(chosen.inference)
  plan = planning.make(reason, preprocessing, chosen.applied(planned), chosen, train_data, model)
  record.write_plan(plan.to_json())
  if not record.state.continued:
    record.save_state()
  return features, plan


def _with_disk_space(features, planned, config, record):
  """Returns the features, whose caches leave to the workdir what it needs; checks that it has so much."""
  if not record.state.directory:
    return features
  root = record.paths.root
  needed = disk_space.of_training(features.model, planned, config, len(features.data.examples))
  # One that continues has written a part of it.
  if not record.state.continued:
    features.devices.decided(lambda: disk_space.check(root, needed))
  return features.with_space_for(root, sum(needed.values()))


def _check_unchanged(config, split, record):
  """Raises `UserError` if a run that continues has other examples than it began with."""
  corrections = (split.examples.corrections or {}).get("sha256", "")
  problem = f"--corrections={config.corrections}: the decisions have changed since the run began"
  record.state.agree("corrections", corrections, problem)
  for name, digest in split.digests().items():
    given = {"validation": "validation_dataset", "test": "test_dataset"}.get(name, "")
    flag = given if given and getattr(config, given) else "dataset"
    problem = f"--{flag}={getattr(config, flag)}: the {name} split has changed since the run began"
    record.state.agree(f"{name} split", digest, problem)


def _target(config, features, record):
  """Returns the features of --unlabelled_dataset."""
  with record.clock("features"):
    return adaptation.target_features(config, features, record)


def _source_only(adapted, features):
  """Returns the metrics of the head before the adaptation on the test split, for comparison."""
  task, targets = features.model.task, features.data.targets[features.data.test]
  found = task.metrics.compute_metrics(adapted.source_logits, targets)
  return {"source_only_test": {name: found[name] for name in ("accuracy", "accuracy_ci95", "macro_f1")}}


def check(features: Features, record: Record) -> None:
  """Checks the data for faults that can be seen without a network, prints the worst ones and writes findings.json."""
  task, examples = features.model.task, features.data.examples
  subject = summary.subject(examples, features.data.split, task)
  start = time.monotonic()
  findings = summary.cheap(subject, features.model.backbone.preprocess)
  for line in summary.start_lines(findings):
    log.warning("%s", line)
  seconds = {"look": time.monotonic() - start}
  label_noise = "python -m tl_app.check" if task.single_label else f"--task={task.name} has no check of it"
  record.write_findings(summary.as_json(subject, findings, seconds, {"label_noise": label_noise}))


def announce(plan: Plan, config: Config, features: Features) -> None:
  """Prints the plan, and the flags that have no effect in its phases."""
  for line in plan_text.lines(plan, features.devices):
    log.info("%s", line)
  modes = {row["bn"] for facts in plan.phase_facts for row in facts["stages"]}
  has_image_size = "image_size" in modalities.of(features.data.examples.modality).flags
  for name, reason in flags_without_effect(config, plan.phases, modes, has_image_size).items():
    log.warning("--%s=%s does nothing here: %s", name, getattr(config, name), reason)


def finish(config: Config, features: Features, metrics: dict, expected: parity.Expected, record: Record) -> dict:
  """Writes the metrics, then the export and the report. A failure of the export leaves a measured run.

  Args:
    config: the `Config`.
    features: the `Features` of the run.
    metrics: the content of metrics.json, without what `machine.describe` returns.
    expected: as for `export`.
    record: the `Record` of the run.

  Returns:
    The metrics, as written to metrics.json.
  """
  paths, replicas = record.paths, features.devices.replicas
  record.write_metrics(metrics | machine.describe(record.seconds, replicas))
  if config.export:
    try:
      about = handover.about(config, model_card.text(facts.read(paths.root), metrics["selected_candidate"]))
      metrics["parity"] = export(config, features, expected, record, about)
    except Exception:
      with contextlib.suppress(OSError):
        page.write(paths.root, features.data.examples)
      log.warning(
        "only the export is missing: metrics, predictions and weights are in %s; when the reason below is gone, "
        "python -m tl_app.export --workdir=%s",
        *(paths.root, paths.root),
      )
      raise
    record.write_metrics(metrics | machine.describe(record.seconds, replicas))
  page.write(paths.root, features.data.examples)
  return files.read_json(paths.metrics)


def export(
  config: Config, features: Features, expected: parity.Expected, record: Record, about: handover.About
) -> dict:
  """Exports the saved model and checks the export.

  Args:
    config: the `Config`.
    features: the `Features` of the run.
    expected: the answers of the model on the test split.
    record: the `Record` of the run.
    about: what the README of the export says.

  Returns:
    The result of the export check.

  Raises:
    RunFailed: the answers of the export differ from `expected`.
  """
  train_data, paths = features.data, record.paths
  with (
    record.clock("export"),
    record.replaced(paths.export),
    parity.Client(train_data.examples.modality) as client,
  ):
    return parity.export_and_prove(
      finished_run.restore(paths, config, Assets.of(config)),
      paths.export,
      train_data.examples.inputs[train_data.test],
      expected,
      client,
      features.batch_size,
      about,
    )
