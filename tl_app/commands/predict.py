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
from collections.abc import Iterator

import tensorflow as tf

from tl_app import files, tasks, workdir
from tl_app.data import modalities
from tl_app.data.readers import unlabelled
from tl_app.data.readers.rows import Row
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
  if output and pathlib.Path(output).is_dir():
    raise UserError(f"--output={output} is a directory: name a file")
  if batch_size < 1:
    raise UserError(f"--batch_size={batch_size}: use 1 or more")
  if top < 0:
    raise UserError(f"--top={top}: use 1 or more, or 0 for the default")
  facts = read_facts(model)
  if facts["pairs"] != bool(text_pair_column):
    takes = "pairs of texts: name the second column with" if facts["pairs"] else "single texts or images: remove"
    raise UserError(f"--model={model} takes {takes} --text_pair_column")
  inputs = read(facts, source, text_column, image_column, text_pair_column)
  predictor = Predictor(model)
  total = failed = 0
  with _sink(output) as file:
    for answers in predictor.answers(inputs, batch_size, top):
      file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in answers))
      file.flush()
      total += len(answers)
      failed += sum("error" in line for line in answers)
    if not total and source != "-":
      raise UserError(f"--input={source} has no inputs")
  if failed:
    log.warning('%s of %s inputs have no answer: see their "error"', f"{failed:,}", f"{total:,}")


def read_facts(model: str | pathlib.Path) -> dict:
  """Returns what an export says of itself: "modality", "pairs", "task", "class_names", ..

  Raises:
    UserError: `model` is no export.
  """
  directory = pathlib.Path(model)
  if not (directory / "saved_model.pb").is_file() or not (directory / workdir.EXPORT_FACTS).is_file():
    raise UserError(f"--model={model} is not an export of tl_app: use WORKDIR/export")
  return files.read_json(directory / workdir.EXPORT_FACTS)


def read(facts: dict, source: str, text_column: str, image_column: str, text_pair_column: str) -> Iterator[Row]:
  """Returns the rows of a file or directory for an export, see `unlabelled.read`.

  Args:
    facts: see `read_facts`.
    source, text_column, image_column, text_pair_column: as of `predict`.
  """
  per_token = tasks.from_config(facts["task"]).per_token
  return unlabelled.read(source, facts["modality"], text_column, image_column, text_pair_column, words=per_token)


class Predictor:
  """An export that is loaded once and answers any number of inputs.

  Attributes:
    facts: see `read_facts`.
  """

  def __init__(self, model: str | pathlib.Path):
    """Loads an export.

    Args:
      model: its directory.

    Raises:
      UserError: `model` is no export, or it cannot be loaded.
    """
    self.facts = read_facts(model)
    self._signature = _signature(pathlib.Path(model), self.facts["modality"])

  def answers(self, inputs: Iterator[Row], batch_size: int = 32, top: int = 0) -> Iterator[list[dict]]:
    """Yields the answers of each batch, in order: {"id"} and the answers of the task, or {"id", "error"}.

    Args:
      inputs: see `unlabelled`. Only one batch of them is in memory.
      batch_size: number of inputs per call of the model.
      top: as of `predict`.
    """
    if not top and len(self.facts["task"]["names"]) > MANY_CLASSES:
      top = TOP
    for answers in _answers(inputs, self.facts, self._signature, batch_size):
      yield [_with_highest(answer, top) for answer in answers]


def cells(answer: dict) -> dict:
  """Returns an answer as the cells of a row, {column: cell}, for a table.

  Of one class per input: label, score, next_label and next_score, the class with the second highest probability. Of
  numbers: one column each. Else what the answer holds, without the probabilities.
  """
  row = {name: value for name, value in answer.items() if name not in ("id", "values", "probabilities")}
  row |= answer.get("values", {})
  others = [pair for pair in answer.get("probabilities", {}).items() if pair[0] != answer.get("label")]
  if "label" in answer and others:
    row["next_label"], row["next_score"] = max(others, key=lambda pair: pair[1])
  return row


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
