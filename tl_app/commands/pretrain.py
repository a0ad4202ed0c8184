"""Pretrains a backbone on data without labels and writes it for --backbone."""

import dataclasses
import logging
import pathlib
import shutil
import time

import keras
import numpy as np
import tensorflow as tf

from tl_app import backbones, files
from tl_app import config as config_lib
from tl_app.assets import Assets
from tl_app.backbones import saved_backbone
from tl_app.backbones.backbone import Backbone, parameters
from tl_app.commands import default_backbone, pretrain_probe, workers
from tl_app.compute import devices as devices_lib
from tl_app.config import Config, rules
from tl_app.data import modalities
from tl_app.data.corpus import corpus as corpora
from tl_app.data.corpus.corpus import Corpus
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.model import model as model_lib
from tl_app.model.model import BackboneWithHead
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.report import formatting, machine, pretraining_page
from tl_app.training import disk_space
from tl_app.training import pretraining as objectives
from tl_app.training.planning import default_learning_rate, length_of
from tl_app.training.pretraining import fit
from tl_app.training.pretraining.fit import Pretraining, Result

log = logging.getLogger(__name__)

# Texts whose tokens are counted for the automatic --max_length.
COUNTED = 5000
# Seconds for writing the backbone and the report, with --max_minutes.
CLOSING_SECONDS = 15.0


def pretrain(config: Config, workdir: str | pathlib.Path) -> dict:
  """Runs a pretraining in a workdir and returns the metrics, as written to metrics.json. An interrupted one continues.

  Args:
    config: the `Config`.
    workdir: directory of the run.

  Raises:
    UserError: something the user must change.
    RunFailed: a loss is not finite, or the audit of a phase failed.
  """
  start, config = time.monotonic(), dataclasses.replace(config, workdir=str(workdir))
  config_lib.validate(config)
  rules.refuse_unused(config, "pretrain")
  config = default_backbone.named(config, labelled=False)
  devices = devices_lib.make(config.strategy, config.num_devices, config.deterministic)
  with devices.watched(), workers.resumable(workdir, config, devices) as record:
    # A killed process leaves its copies.
    shutil.rmtree(record.paths.corpus, ignore_errors=True)
    # From here on the clock of the state counts the seconds of this process, too.
    end = start - record.state.elapsed + 60 * config.max_minutes - CLOSING_SECONDS
    try:
      return _run(config, record, end if config.max_minutes else None, devices)
    finally:
      shutil.rmtree(record.paths.corpus, ignore_errors=True)


def _run(config, record, deadline, devices):
  rules.check(rules.DEVICES, config, devices.replicas)
  keras.utils.set_random_seed(config.seed)
  assets, objective = Assets.of(config), objectives.chosen(config)
  record.paths.corpus.mkdir()
  disk_space.check(record.paths.root, {"copy of the texts": corpora.size_of_texts(config)})
  corpus = corpora.load(config, assets, record.paths.corpus)
  for note in corpus.notes:
    log.warning("%s", note)
  problem = f"--dataset={config.dataset}: its examples have changed since the run began"
  record.state.agree("corpus", corpus.digest, problem)
  with devices.scope():
    backbone = load_backbone(config, assets, corpus)
    rules.require(objective.problem(backbone, config))
    if backbone.save is None:
      raise UserError(f"--backbone={config.backbone}: tl_app cannot write a network of this kind after pretraining")
    settings = objective.settings(config)
    model = model_lib.pretraining(backbone, objective.head(backbone, settings), backbone.tied)
  # One that continues has written a part of it.
  if not record.state.continued:
    devices.decided(lambda: disk_space.check(record.paths.root, disk_space.of_pretraining(model)))
  preprocessing = _set_length(config, backbone, corpus)
  # Random weights know nothing that a new head could destroy.
  warm_up_steps = objective.warm_up_steps if backbone.pretrained else 0
  planned = recipes.pretrain(config, facts(model, corpus, config), settings, warm_up_steps, devices.replicas)
  phases = objective.phases(planned)
  workers.check_same(config, corpus.facts, devices)
  record.write_splits({"corpus": corpus.facts})
  plan = _plan(config, model, assets, preprocessing, phases)
  record.write_plan(plan)
  _print(plan, corpus, phases, objective)
  probe = pretrain_probe.make(config, assets, backbone, record.state) if config.probe_dataset else None
  if not record.state.continued:
    record.save_state()
  result = fit.run(phases, Pretraining(objective, model, corpus, devices, config, record, probe, deadline))

  def write():
    metrics = _metrics(config, corpus, result, objective, probe)
    record.write_plan(plan | {"phases": [_with_policy(phase, result) for phase in result.done]})
    with record.clock("export"):
      saved_backbone.write(backbone, record.paths.backbone, _card(config, corpus, metrics, backbone))
    record.write_metrics(metrics | machine.describe(record.seconds, devices.replicas))
    pretraining_page.write(record.paths.root, objective.metrics)
    return files.read_json(record.paths.metrics)

  return devices.decided(write)


def load_backbone(config: Config, assets: Assets, corpus: Corpus) -> Backbone:
  """Returns the backbone of --backbone, in the scope of the current strategy.

  Raises:
    UserError: it cannot be loaded, or cannot read the examples of the corpus.
  """
  spec = backbones.resolve(config.backbone)
  if modalities.of(corpus.modality).varies_in_length:
    texts = (text.decode() for i in range(len(corpus.train)) for text in corpus.train.read(np.array([i])))
    spec = backbones.with_vocabulary(spec, texts, config.vocabulary_size)
  backbone = backbones.load_configured(spec, assets, config)
  modality = modalities.of(corpus.modality)
  rules.check(rules.BACKBONE, config, modality, modalities.other_flags(corpus.modality), backbone)
  return backbone


def _set_length(config, backbone, corpus):
  """Sets the text length, as training does; returns what plan.json tells of the preprocessing."""
  preprocess = backbone.preprocess
  if not modalities.of(corpus.modality).varies_in_length:
    return {"image_size": int(preprocess.size)}
  if not preprocess.limit:
    return {"max_length": 0}
  if config.max_length > preprocess.limit:
    raise UserError(
      f"--max_length={config.max_length}, but {backbone.spec.name} reads at most {preprocess.limit} tokens"
    )
  sample = np.linspace(0, len(corpus.train) - 1, min(COUNTED, len(corpus.train))).astype(np.int64)
  texts = tf.constant(list(corpus.train.read(sample)), tf.string)
  counts = np.concatenate([preprocess.count_tokens(texts[i : i + 256]) for i in range(0, len(sample), 256)])
  preprocess.max_length = config.max_length or min(length_of(counts), preprocess.limit)
  cut = float(np.mean(counts > preprocess.max_length))
  return {"max_length": int(preprocess.max_length), "texts_cut": round(cut, 4), "tokens_per_text": float(counts.mean())}


def facts(model: BackboneWithHead, corpus: Corpus, config: Config) -> Facts:
  """Returns the `Facts` that the phases are made from. Raises `UserError` if there are fewer examples than a batch."""
  backbone, batch = model.backbone, config.examples_per_step
  if len(corpus.train) < batch:
    noun = modalities.of(corpus.modality).plural
    raise UserError(
      f"--dataset={config.dataset} has {len(corpus.train):,} different {noun} to train on, fewer than "
      f"--batch_size={batch}: add some, or lower --batch_size"
    )
  return Facts(
    num_train=len(corpus.train),
    num_classes=0,
    learning_rate=default_learning_rate(backbone),
    stages={name: tuple(v.path for v in stage if id(v) in model.can_train) for name, stage in backbone.stages.items()},
    primary_metric="loss",
    pretrained=backbone.pretrained,
  )


def _plan(config, model, assets, preprocessing, phases):
  backbone = model.backbone
  return {
    "objective": config.objective,
    "backbone": {
      "name": backbone.spec.name,
      "kind": backbone.spec.kind,
      "feature_size": backbone.feature_size,
      "parameters": sum(parameters(v) for v in backbone.stages.values()),
      "notes": backbone.notes,
    },
    "origin": dataclasses.asdict(backbone.spec.origin),
    "downloads": [dataclasses.asdict(download) for download in assets.downloads()],
    "preprocessing": preprocessing,
    "stages": [{"name": name, "parameters": parameters(stage)} for name, stage in model.stages.items()],
    "phases": [phase.to_json() for phase in phases],
  }


def _with_policy(phase, result):
  return phase.to_json() | {"step_policy": dataclasses.asdict(result.policies[phase.name])}


def _print(plan, corpus, phases, objective):
  noun = modalities.of(corpus.modality).plural
  log.info("data: %s %s to train on, %s held out", f"{len(corpus.train):,}", noun, f"{len(corpus.held_out):,}")
  log.info("backbone: %s, %s parameters", plan["backbone"]["name"], f"{plan['backbone']['parameters']:,}")
  log.info("input: %s", formatting.what_is_read(plan["preprocessing"]))
  for phase in phases:
    rates = phase.optimizer.learning_rates
    log.info(
      "phase %s: %s of %s of %s, stages %s, learning rate up to %.3g%s",
      *(phase.name, number_of(phase.schedule.epochs, "epoch"), number_of(phase.schedule.steps_per_epoch, "step")),
      number_of(phase.inputs.batch_size, "example"),
      *(", ".join(phase.trains.train_stages), max(rates.values()), objective.description(phase)),
    )


def _metrics(config, corpus, result: Result, objective, probe):
  improved = result.best is not result.start
  metrics = {
    "objective": config.objective,
    "metric_titles": objective.metrics,
    "before": result.start.metrics,
    "after": result.best.metrics,
    "selected": result.best.name,
    "improved": improved,
    "num_train": len(corpus.train),
    "num_held_out": len(corpus.held_out),
    "examples_per_second": {name: round(speed, 2) for name, speed in result.examples_per_second.items()},
  }
  if not improved:
    log.warning("no epoch was better than the start: the weights of the start are written")
  return metrics | ({"probe": probe.compared()} if probe else {})


def _card(config, corpus, metrics, backbone):
  return saved_backbone.Card(
    made_from=config.backbone,
    how=f"pretraining with the objective {config.objective}"
    if metrics["improved"]
    else "unchanged: nothing was better",
    data=f"`{corpus.facts['source']}`, {len(corpus.train):,} examples, {len(corpus.held_out):,} more held out",
    metrics={
      f"held-out {name}": (metrics["before"].get(name), metrics["after"].get(name))
      for name in [*metrics["metric_titles"], "probe"]
      if name in metrics["before"]
    },
    licence=backbone.spec.licence,
  )
