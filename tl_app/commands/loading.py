"""What a command loads for training: examples with their splits, the model, and its frozen features."""

import dataclasses
import logging

from tl_app import backbones, data, tasks
from tl_app import workdir as workdir_lib
from tl_app.assets import Assets, cache_root
from tl_app.backbones.spec import BackboneSpec
from tl_app.compute.devices import Devices
from tl_app.config import Config, rules
from tl_app.data import copies, modalities
from tl_app.data import training_data as training_data_lib
from tl_app.data.examples import strings
from tl_app.data.splitting import splits
from tl_app.data.splitting.fingerprints import fingerprint
from tl_app.data.splitting.image_index import DecodedImageIndex
from tl_app.data.training_data import TrainingData
from tl_app.features import frozen
from tl_app.features.frozen import Features
from tl_app.model import model as model_lib
from tl_app.model.model import Model
from tl_app.training import plan_text, planning

log = logging.getLogger(__name__)


def examples(config: Config, assets: Assets) -> tuple[splits.Splits, tasks.Task, str]:
  """Returns (the examples and their splits, the fitted `Task`, the reason for its choice)."""
  found = data.load(config, assets)
  task, reason = tasks.choose(config, found)
  found = dataclasses.replace(found, classes=strings(task.codec.classes(found.labels)))
  fingerprints = fingerprint(found, DecodedImageIndex(assets.root))
  split = splits.make(found, config.splits, fingerprints, task.has_class_names)
  return split, task.fit(found.labels[split.train]).decide(config.answers), reason


def announce(config: Config, split: splits.Splits, task: tasks.Task, reason: str) -> None:
  """Prints what the data are; the arguments are those of `examples` and what it returns."""
  notes = (f"note: {note}" for note in split.notes if note not in split.findings)
  for line in (*plan_text.data_lines(config.dataset, split, task, reason), *notes):
    log.info("%s", line)


def with_vocabulary(config: Config, spec: BackboneSpec, split: splits.Splits) -> BackboneSpec:
  """Returns the record of a backbone with the vocabulary that it learns from the training texts, if it does."""
  if spec.modality != split.examples.modality:
    # `model` refuses it.
    return backbones.with_vocabulary(spec, (), config.vocabulary_size)
  texts = split.examples.inputs[split.train].array().ravel()
  return backbones.with_vocabulary(spec, texts, config.vocabulary_size)


def model(config: Config, spec: BackboneSpec, assets: Assets, devices: Devices, task, modality: str) -> Model:
  """Returns the `Model`: the backbone with a new head for the task.

  Args:
    config: the `Config`.
    spec: the record of --backbone, with its learnt vocabulary.
    assets: the `Assets`.
    devices: the `Devices`.
    task: the fitted `Task`.
    modality: name of the modality of the data.

  Raises:
    UserError: the backbone cannot read these data, or a flag has no effect with them.
  """
  with devices.scope():
    loaded = model_lib.load(config, spec, assets, task, config.max_length)
  of_data = modalities.of(modality)
  rules.check(rules.BACKBONE, config, of_data, modalities.other_flags(modality), loaded.backbone)
  return loaded


def training_data(config: Config, split: splits.Splits, task) -> TrainingData:
  """Returns the `TrainingData` of a run, with the augmented copies that the flags ask for."""
  found, augment = split.examples, None
  if config.augment != "none":
    modality = modalities.of(found.modality)
    augment = modality.augmentation(config.augment, found.inputs[split.train], config.seed)
  copied = copies.make(found, split.train, augment, config.augment_copies) if config.augment_copies else None
  return training_data_lib.make(found, split, training_data_lib.targets_of(task, found, split), augment, copied)


def features(config: Config, model: Model, train_data: TrainingData, devices: Devices, clock) -> Features:
  """Returns the `Features` of a run, with the batch size of the flags."""
  store = frozen.store(config.machine, cache_root(config.cache_dir))
  inference_batch = frozen.inference_batch(config.examples_per_step, model.backbone, devices)
  return Features(model, train_data, devices, store, inference_batch, clock)


def without_run(
  config: Config, spec: BackboneSpec, split: splits.Splits, task, assets: Assets, devices: Devices
) -> Features:
  """Returns the `Features` of a new model with its preprocessing set, for what is measured outside of a run.

  Args:
    config: the `Config`.
    spec: the record of --backbone, with its learnt vocabulary.
    split: the `Splits`.
    task: the fitted `Task`.
    assets: the `Assets`.
    devices: the `Devices`.

  Raises:
    UserError: as of `model`.
  """
  loaded = model(config, spec, assets, devices, task, split.examples.modality)
  train_data = frozen.with_lengths(training_data(config, split, task), loaded.backbone)
  planning.set_preprocessing(config.inputs, train_data, loaded)
  return features(config, loaded, train_data, devices, workdir_lib.Clock())
