"""--probe_dataset: a linear probe on the features of the backbone, while it is pretrained."""

import dataclasses

import keras
import numpy as np

from tl_app import data, tasks
from tl_app.assets import Assets
from tl_app.backbones.backbone import Backbone
from tl_app.compute import multi_worker
from tl_app.config import Config
from tl_app.data import training_data
from tl_app.data.examples import strings
from tl_app.data.splitting import splits
from tl_app.data.splitting.fingerprints import fingerprint
from tl_app.data.splitting.image_index import DecodedImageIndex
from tl_app.data.training_data import TrainingData
from tl_app.errors import UserError
from tl_app.model import heads, inference
from tl_app.model import model as model_lib
from tl_app.model.heads import LabelledFeatures
from tl_app.model.model import Model
from tl_app.tasks.task import Task
from tl_app.training import precision
from tl_app.workdir.state import RunState


class Probe:
  """Measures a linear probe on the present features of a backbone. The first call is the start.

  The regularisation is chosen on the validation split, by which the epochs are compared; the test split is measured at
  the start and at the end.
  """

  def __init__(self, model: Model, train_data: TrainingData, batch_size: int):
    """Creates the probe of the backbone of `model`, whose head it uses."""
    self._model, self._data, self._batch_size = model, train_data, batch_size
    self._scores, self._start = [], None

  def __call__(self) -> float:
    """Returns the primary metric of the task on the validation split."""
    score, test_logits = self._fit()
    self._scores.append(score)
    if self._start is None:
      self._start = test_logits
    return score

  def get_state(self) -> dict:
    """Returns the scores so far and the logits of the start, as JSON values and NumPy arrays."""
    return {"scores": list(self._scores), "start": self._start}

  def set_state(self, saved: dict) -> None:
    """Continues after what `get_state` has returned."""
    self._scores, self._start = list(saved["scores"]), saved["start"]

  def compared(self) -> dict:
    """Returns what metrics.json says: the test metrics of the start and of the present weights, and the paired test."""
    _, logits = self._fit()
    task, targets = self._model.task, self._data.targets[self._data.test]
    assert self._start is not None
    return {
      "task": task.name,
      "primary_metric": task.metrics.primary_metric,
      "validation": self._scores,
      "before": _brief(task, self._start, targets),
      "after": _brief(task, logits, targets),
      "p_value": task.metrics.p_value(self._start, logits, targets),
      "test": task.metrics.test_title,
    }

  def _fit(self):
    """Fits the head; returns (validation score, logits of the test split)."""
    model, data = self._model, self._data
    with precision.computing(model.features, precision.FLOAT32):
      train, validation, test = (
        inference.predict(multi_worker.predictor(model.features), model.backbone, data.inputs[rows], self._batch_size)
        for rows in (data.train, data.validation, data.test)
      )
    heads.standardize(model.head, train)
    measured = LabelledFeatures(validation, data.validation_targets)
    part = heads.Part(LabelledFeatures(train, data.train_targets), measured)
    heads.set_logits(model.head, heads.solve(model.head, model.task.closed_solver, model.task, [part]).weights[0])
    logits = heads.logits(model.head, validation)
    return model.task.metrics.score(logits, data.validation_targets), heads.logits(model.head, test)


def make(config: Config, assets: Assets, backbone: Backbone, state: RunState) -> Probe:
  """Returns the `Probe` of --probe_dataset on a backbone.

  Args:
    config: the `Config`.
    assets: the `Assets`.
    backbone: the `Backbone`.
    state: the `RunState`, which knows the examples if the run continues.

  Raises:
    UserError: the data cannot be read, have changed, are of another modality, or have a tag for each word.
  """
  config = dataclasses.replace(config, dataset=config.probe_dataset, validation_dataset="", max_examples=0)
  flag = f"--probe_dataset={config.dataset}"
  try:
    examples = data.load(config, assets)
  except UserError as error:
    raise UserError(str(error).replace(f"--dataset={config.dataset}", flag)) from None
  if examples.modality != backbone.modality or examples.inputs.array().ndim > 1:
    raise UserError(f"{flag} does not hold single {backbone.modality}s, which the backbone reads")
  task, _ = tasks.choose(config, examples)
  if task.per_token:
    raise UserError(f"{flag} has a tag for each word: a linear probe needs a label for each text")
  examples = dataclasses.replace(examples, classes=strings(task.codec.classes(examples.labels)))
  fingerprints = fingerprint(examples, DecodedImageIndex(assets.root))
  split = splits.make(examples, config.splits, fingerprints, task.has_class_names)
  state.agree("probe", split.digests(), f"{flag}: its examples have changed since the run began")
  task: Task = task.fit(examples.labels[split.train])
  model = model_lib.build(backbone, task)
  train_data = training_data.make(examples, split, training_data.targets_of(task, examples, split))
  return Probe(model, train_data, inference.inference_batch(backbone))


def _brief(task, logits, targets):
  """Returns the metrics of a split that are single numbers or intervals."""
  found = task.metrics.compute_metrics(np.asarray(keras.ops.convert_to_numpy(logits)), targets)
  names = ["num_examples", *task.metrics.metric_titles]
  return {name: found[name] for key in names for name in (key, f"{key}_ci95") if name in found}
