"""Predicts new inputs with an exported model, through its serving signature only, like a serving client."""

import concurrent.futures
import contextlib
import heapq
import importlib
import itertools
import json
import logging
import os
import pathlib
import sys

import tensorflow as tf

from tl_app import files, tasks, workdir
from tl_app.data import modalities
from tl_app.data.readers import unlabelled
from tl_app.errors import UserError

log = logging.getLogger(__name__)

# With more classes the default of --top is `TOP`.
MANY_CLASSES = 100
TOP = 10


def predict(
  model: str | pathlib.Path,
  source: str,
  output: str = "",
  text_column: str = "text",
  image_column: str = "image",
  batch_size: int = 32,
  text_pair_column: str = "",
  top: int = 0,
) -> None:
  """Writes one JSON object per line and input, in order: {"id"} and the answers of the task, or {"id", "error"}.

  Args:
    model: directory of the export.
    source: an image, a directory of images, a .txt file (one text per line), a table, or "-" (standard input, one text
      per line).
    output: file, which is complete when it appears; "" is standard output, flushed after every batch.
    text_column: column of the texts in a table.
    image_column: column of the image paths in a table.
    batch_size: number of inputs per call of the model.
    text_pair_column: column of the second text in a table, for a model of pairs of texts; "" for other models.
    top: number of classes whose probabilities are written, the highest first; 0 for all of at most `MANY_CLASSES`
      classes, in their own order, else for the `TOP` highest.

  Raises:
    UserError: `model` is no export, or `source` does not exist, is empty, has another modality or lacks a column.
  """
  directory = pathlib.Path(model)
  if not (directory / "saved_model.pb").is_file() or not (directory / workdir.EXPORT_FACTS).is_file():
    raise UserError(f"--model={model} is not an export of tl_app: use WORKDIR/export")
  if output and pathlib.Path(output).is_dir():
    raise UserError(f"--output={output} is a directory: name a file")
  if batch_size < 1:
    raise UserError(f"--batch_size={batch_size}: use 1 or more")
  if top < 0:
    raise UserError(f"--top={top}: use 1 or more, or 0 for the default")
  facts = files.read_json(directory / workdir.EXPORT_FACTS)
  if facts["pairs"] != bool(text_pair_column):
    takes = "pairs of texts: name the second column with" if facts["pairs"] else "single texts or images: remove"
    raise UserError(f"--model={model} takes {takes} --text_pair_column")
  per_token = tasks.from_config(facts["task"]).per_token
  inputs = unlabelled.read(source, facts["modality"], text_column, image_column, text_pair_column, words=per_token)
  signature = _signature(directory, facts["modality"])
  if not top and len(facts["task"]["names"]) > MANY_CLASSES:
    top = TOP
  total = failed = 0
  with _sink(output) as file:
    for answers in _answers(inputs, facts, signature, batch_size):
      lines = (_with_highest(answer, top) for answer in answers)
      file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
      file.flush()
      total += len(answers)
      failed += sum("error" in line for line in answers)
    if not total and source != "-":
      raise UserError(f"--input={source} has no inputs")
  if failed:
    log.warning('%s of %s inputs have no answer: see their "error"', f"{failed:,}", f"{total:,}")


def _signature(directory, modality):
  for module in modalities.of(modality).serving_modules:
    importlib.import_module(module)
  try:
    return tf.saved_model.load(str(directory)).signatures["serving_default"]
  except (OSError, tf.errors.OpError) as error:
    raise UserError(f"--model={directory} cannot be loaded: {str(error).strip().splitlines()[0]}") from None


@contextlib.contextmanager
def _sink(output):
  if not output:
    # JSON is UTF-8, whatever the locale of the terminal.
    sys.stdout.reconfigure(encoding="utf-8")
    yield sys.stdout
    return
  with files.atomic_path(output) as new, open(new, "w", encoding="utf-8") as file:
    yield file


def _answers(inputs, facts, signature, batch_size):
  """Yields the answers of each batch, a list of dicts. Only one batch of `inputs` is in memory."""
  task = tasks.from_config(facts["task"])
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    while batch := list(itertools.islice(inputs, batch_size)):
      reasons = list(pool.map(_reason, batch, itertools.repeat(facts["modality"])))
      good = [row.values if facts["pairs"] else row.values[0] for row, reason in zip(batch, reasons) if not reason]
      answers = iter(_rows(signature(inputs=tf.constant(good, tf.string)), task, good) if good else ())
      yield [{"id": row.id} | ({"error": reason} if reason else next(answers)) for row, reason in zip(batch, reasons)]


def _with_highest(answer, top):
  """Returns an answer with the `top` highest of its probabilities, the highest first; 0 leaves it as it is."""
  probabilities = answer.get("probabilities")
  if not top or not isinstance(probabilities, dict):
    return answer
  return answer | {"probabilities": dict(heapq.nlargest(top, probabilities.items(), key=lambda item: item[1]))}


def _reason(row, modality):
  return row.reason or next(filter(None, map(modalities.of(modality).verify, row.values)), None)


def _rows(outputs, task, inputs):
  return task.answers.decode({name: value.numpy() for name, value in outputs.items()}, inputs)
