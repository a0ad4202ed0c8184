"""Writes a model as a SavedModel: raw strings or encoded images in, class names out."""

import dataclasses
import functools
import json
import pathlib
import tempfile
from collections.abc import Mapping

import keras
import tensorflow as tf

from tl_app import files, workdir
from tl_app.data import modalities
from tl_app.model.model import Model

LABELS = "labels.txt"


class Served(tf.Module):
  """The module that is saved: `serving_default` and `features`, both on a batch of raw inputs.

  Args:
    model: the `Model`.
    labels_file: path of a text file with the name of an output on each line; it becomes assets/labels.txt.
  """

  def __init__(self, model: Model, labels_file: pathlib.Path):
    super().__init__(name="tl_app")
    self._preprocess = model.backbone.preprocess
    self._answer = functools.partial(model.network, training=False)
    self._pooled = functools.partial(model.features, training=False)
    self._variables = [variable.value for variable in model.network.variables]
    # The layer leads to the tables and assets of a SavedModel. A native network has none, and its layers would write
    # each variable a second time.
    self._layers = model.network.layers if model.backbone.tracks_assets else []
    self._labels_file = tf.saved_model.Asset(str(labels_file))
    self._task = model.task
    self._ood = model.ood
    if model.ood:
      # Logits and features by one pass through the backbone.
      both = keras.Model(model.network.input, (model.network.output, model.features.output))
      self._answer_and_pool = functools.partial(both, training=False)
      self._references = tf.Variable(tf.convert_to_tensor(model.ood.references), trainable=False)
    self._blank = modalities.of(model.backbone.modality).blank
    signature = [tf.TensorSpec([None, 2] if model.backbone.pairs else [None], tf.string, name="inputs")]
    self.serving_default = tf.function(self._serve, input_signature=signature)
    self.features = tf.function(self._pool, input_signature=signature)

  def _serve(self, inputs):
    """string [batch], or [batch, 2] for pairs -> the outputs of the task, see `Answers.signature_outputs`."""
    filled = self._filled(inputs)
    answers, read = self._task.answers, self._preprocess(filled)
    if not self._ood:
      return self._without_blank(answers.signature_outputs(self._answer(read), filled), inputs)
    logits, features = self._answer_and_pool(read)
    outputs = answers.signature_outputs(logits, filled)
    outputs["ood_score"] = self._ood.tensor_score(features, answers.certainty(logits), self._references)
    return self._without_blank(outputs | answers.accept_output(outputs), inputs)

  def _pool(self, inputs):
    """string [batch], or [batch, 2] for pairs -> features float32 [batch, feature_size], the input of the head.

    Of a task that answers per token: [batch, positions, feature_size], zeros beyond the words that are read.
    """
    return self._without_blank({"features": self._pooled(self._preprocess(self._filled(inputs)))}, inputs)

  def _filled(self, inputs):
    """Returns the batch, or one blank input in place of an empty one, see `Modality.blank`."""
    if self._blank is None:
      return inputs
    missing = tf.cast(tf.equal(tf.shape(inputs)[:1], 0), tf.int32)
    return tf.concat([inputs, tf.fill(missing, self._blank)], axis=0)

  def _without_blank(self, outputs, inputs):
    if self._blank is None:
      return outputs
    return {name: value[: tf.shape(inputs)[0]] for name, value in outputs.items()}


def write(model: Model, directory: pathlib.Path | str) -> None:
  """Writes the SavedModel of `model` to `directory`, which must not exist."""
  origin = model.backbone.spec.origin
  facts = {
    "modality": model.backbone.modality,
    "class_names": list(model.task.names),
    "backbone": model.backbone.spec.name,
    "origin": dataclasses.asdict(origin) if origin else None,
    "downloads": [dataclasses.asdict(download) for download in model.backbone.downloads],
    "stages": _positions(model),
    "pairs": model.backbone.pairs,
    "task": model.task.get_config(),
  }
  # Beside the export: the directory of temporary files may be small.
  with tempfile.TemporaryDirectory(dir=pathlib.Path(directory).parent) as scratch:
    labels = pathlib.Path(scratch) / LABELS
    labels.write_text("".join(f"{' '.join(name.splitlines())}\n" for name in model.task.names), encoding="utf-8")
    served = Served(model, labels)
    signatures = {"serving_default": served.serving_default, "features": served.features}
    tf.saved_model.save(served, str(directory), signatures=signatures)
  extra = pathlib.Path(directory) / workdir.EXPORT_FACTS
  extra.parent.mkdir()
  workdir.write_vocabulary(pathlib.Path(directory) / workdir.EXPORT_VOCABULARY, model.backbone.spec.vocabulary)
  extra.write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def remember_columns(directory: pathlib.Path | str, columns: Mapping[str, str]) -> None:
  """Adds {flag: column} of the inputs in the training table to what an export says of itself."""
  path = pathlib.Path(directory) / workdir.EXPORT_FACTS
  files.write_json(path, {**files.read_json(path), "columns": dict(columns)})


def _positions(model):
  """Returns {stage: [[path of the variable, its position in `Served._variables`]]}, in the order of the stages."""
  position = {id(variable): i for i, variable in enumerate(model.network.variables)}
  return {name: [[v.path, position[id(v)]] for v in variables] for name, variables in model.stages.items()}
