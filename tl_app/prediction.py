"""Answers new inputs with an export, through its signature only: what a serving client would see."""

import contextlib
import json
import logging
import pathlib
import sys

import tensorflow as tf

from tl_app import files, serving
from tl_app.data import sources
from tl_app.errors import UserError
from tl_app.preprocessing import image

log = logging.getLogger(__name__)


def predict(model, source, output="", text_column="text", image_column="image", batch_size=32):
  """Writes one JSON object a line: {"id", "label", "score", "probabilities"}, or {"id", "error"}.

  Args:
    model: directory of the export.
    source: an image, a directory of images, a .txt (a text a line) or a table.
    output: file; "" is standard output.
    text_column, image_column: columns of a table.
    batch_size: inputs a call.

  Raises:
    UserError: no export, no such input, or a column that does not exist.
  """
  directory = pathlib.Path(model)
  if not (directory / "saved_model.pb").is_file() or not (directory / serving.FACTS).is_file():
    raise UserError(f"--model={model} is not an export of tl_app: give WORKDIR/export")
  facts = files.read_json(directory / serving.FACTS)
  inputs = sources.unlabelled(source, facts["modality"], text_column, image_column)
  if facts["modality"] == "text":
    import tensorflow_text  # noqa: F401, registers the tokenizer's ops
  signature = tf.saved_model.load(str(directory)).signatures["serving_default"]
  with _sink(output) as file:
    for batch in _batches(inputs, batch_size):
      for answer in _answers(batch, facts, signature):
        file.write(json.dumps(answer, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _sink(output):
  if not output:
    yield sys.stdout
    return
  with files.atomic_path(output) as new, open(new, "w", encoding="utf-8") as file:
    yield file


def _batches(inputs, batch_size):
  batch = []
  for item in inputs:
    batch.append(item)
    if len(batch) == batch_size:
      yield batch
      batch = []
  if batch:
    yield batch


def _answers(batch, facts, signature):
  reasons = [_reason(value, facts["modality"]) for _, value in batch]
  good = [value for (_, value), reason in zip(batch, reasons) if not reason]
  rows = iter(_rows(signature(inputs=tf.constant(good, tf.string)), facts) if good else [])
  for (name, _), reason in zip(batch, reasons):
    yield {"id": name, "error": reason} if reason else {"id": name} | next(rows)


def _reason(value, modality):
  return image.verify(value) if modality == "image" else None


def _rows(outputs, facts):
  for label, score, row in zip(*(outputs[name].numpy() for name in ("label", "score", "probabilities"))):
    yield {
        "label": label.decode("utf-8"),
        "score": float(score),
        "probabilities": {name: float(p) for name, p in zip(facts["class_names"], row)},
    }
