"""Predicts new inputs with an exported model, through its serving signature only, like a serving client."""

import concurrent.futures
import heapq
import importlib
import itertools
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from tl_app import tasks
from tl_app.assets import saved_models
from tl_app.commands import answer_files, exports
from tl_app.data import modalities
from tl_app.data.readers import unlabelled
from tl_app.data.readers.rows import Row
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.files import checksums

log = logging.getLogger(__name__)

# With more classes the default of --top is `TOP`.
MANY_CLASSES = 100
TOP = 10


def predict(
  model: str | pathlib.Path,
  source: str | Sequence,
  output: str = "",
  text_column: str = "",
  image_column: str = "",
  batch_size: int = 32,
  text_pair_column: str = "",
  top: int = 0,
  trust_backbone: bool = False,
) -> None:
  """Answers inputs and writes the answers in order.

  A file whose name ends with .csv is a table with "id", the text, and what `answer_files.cells` returns. Else each
  line is a JSON object: {"id"} and the answers of the task, or {"id", "error"}.

  Args:
    model: a finished run, or the directory of an export.
    source: an image, a directory of images, a .txt file (one text per line), a table, or "-" (standard input, one text
      per line); or a list of texts, see `unlabelled.from_values`.
    output: file, which is complete when it appears; "" is standard output, flushed after every batch.
    text_column: column of the texts in a table; "" for that of the training data.
    image_column: column of the image paths in a table; "" likewise.
    batch_size: number of inputs per call of the model.
    text_pair_column: column of the second text in a table, for a model of pairs of texts; "" likewise.
    top: number of classes whose probabilities are written, the highest first; 0 for all of at most `MANY_CLASSES`
      classes, in their own order, else for the `TOP` highest.
    trust_backbone: as in `Config`.

  Raises:
    UserError: `model` is no export, or is not trusted; or `source` does not exist, is empty, has another modality or
      lacks a column.
  """
  answer_files.check(output, source)
  if batch_size < 1:
    raise UserError(f"--batch_size={batch_size}: use 1 or more")
  if top < 0:
    raise UserError(f"--top={top}: use 1 or more, or 0 for the default")
  if top and answer_files.is_table(output):
    raise UserError(f"--top={top} does nothing for --output={output}, which has the best two classes: remove the flag")
  model = exports.export_of(model)
  facts = read_facts(model)
  given = {"text_column": text_column, "image_column": image_column, "text_pair_column": text_pair_column}
  modality = modalities.of(facts["modality"])
  unused = set(filter(given.get, given)) - {modality.column_flag, "text_pair_column"}
  if unused:
    raise UserError(f"--{min(unused)}={given[min(unused)]}, but the model reads {modality.plural}: remove the flag")
  inputs = _inputs(facts, source, exports.input_columns(facts, given), model)
  predictor = Predictor(model, trust_backbone)
  total = failed = 0
  with answer_files.opened(output, facts, predictor.columns) as write:
    while rows := list(itertools.islice(inputs, batch_size)):
      for answers in predictor.answers(iter(rows), batch_size, top):
        write(rows, answers)
        total += len(answers)
        failed += sum("error" in line for line in answers)
    if not total and source != "-":
      raise UserError(f"--input={source} has no inputs")
  if output:
    log.info("%s written to %s", number_of(total, "answer"), output)
  if failed:
    log.warning('inputs without an answer: %s of %s; see their "error"', f"{failed:,}", f"{total:,}")


def _inputs(facts, source, columns, model):
  if not isinstance(source, str):
    return unlabelled.from_values(source, facts["modality"], facts["pairs"])
  if facts["pairs"] != bool(columns["text_pair_column"]):
    takes = "pairs of texts: name the second column with" if facts["pairs"] else "single texts or images: remove"
    raise UserError(f"--model={model} takes {takes} --text_pair_column")
  return read(facts, source, columns["text_column"], columns["image_column"], columns["text_pair_column"])


def read_facts(model: str | pathlib.Path) -> dict:
  """Returns what an export says of itself: "modality", "pairs", "task", "class_names", ..

  Raises:
    UserError: `model` is no export.
  """
  return exports.read_facts(pathlib.Path(model))


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

  def __init__(self, model: str | pathlib.Path, trust_backbone: bool = False):
    """Loads an export.

    Args:
      model: its directory.
      trust_backbone: as in `Config`.

    Raises:
      UserError: `model` is no export, or it cannot be loaded.
    """
    self.facts = read_facts(model)
    self._signature = _signature(pathlib.Path(model), self.facts["modality"], trust_backbone)

  @property
  def columns(self) -> list[str]:
    """Columns of a table of answers, see `answer_files.cells`, whatever the inputs; that of the errors is the last."""
    served = {
      name: np.full([1, *(size or 0 for size in spec.shape[1:])], b"" if spec.dtype == tf.string else 0)
      for name, spec in self._signature.structured_outputs.items()
    }
    (answer,) = tasks.from_config(self.facts["task"]).answers.decode_all(served, [b""])
    return [*answer_files.cells(answer), "error"]

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


def _signature(directory, modality, trust):
  checksums.verify_all(directory, checksums.EXPORT_AGAIN)
  for module in modalities.of(modality).serving_modules:
    importlib.import_module(module)
  signature = saved_models.load(directory, trust=trust).module.signatures.get("serving_default")
  if signature is None:
    raise UserError(f"--model={directory} has no signature serving_default: it is no export of tl_app")
  return signature


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
  return task.answers.decode_all({name: value.numpy() for name, value in outputs.items()}, inputs)
