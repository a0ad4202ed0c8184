"""The export check: a new process answers test examples with the export as the evaluation did."""

import itertools
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf

from tl_app import files
from tl_app.data import modalities
from tl_app.data.examples import Inputs
from tl_app.errors import RunFailed
from tl_app.model.model import Model
from tl_app.serving import fresh_process, saved_model

log = logging.getLogger(__name__)

# Test examples that are checked, evenly spaced over the split.
PARITY_EXAMPLES = 512
TOLERANCE = 1e-4
# Largest number of inputs in a call.
BATCH = 32


class Client:
  """A new Python process that imports TensorFlow and nothing of tl_app, and answers inputs with an export.

  It starts at once, so that its imports run while this process does other work. It is a context manager: at the end of
  the block the process is gone.

  Args:
    modality: name of the `Modality` of the inputs: it knows the modules that an export needs besides TensorFlow.
  """

  def __init__(self, modality: str):
    # -P: the script must not find modules of its directory in place of the standard library's.
    command = [sys.executable, "-P", fresh_process.__file__]
    command += modalities.of(modality).serving_modules
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipe = subprocess.PIPE
    self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if self._process.poll() is None:
      self._process.kill()
      self._process.communicate()

  def answer(
    self, directory: pathlib.Path | str, rows: list[tuple[bytes, ...]], batch_size: int
  ) -> dict[str, np.ndarray]:
    """Returns the outputs of `serving_default` of a SavedModel, by name; then the process ends.

    Args:
      directory: directory of the SavedModel.
      rows: list of tuples of bytes, one for each column.
      batch_size: rows in a call.

    Raises:
      RunFailed: the export does not run there.
    """
    with tempfile.TemporaryDirectory() as scratch:
      asked, answered = os.path.join(scratch, "inputs.tfrecord"), os.path.join(scratch, "answers.npz")
      with tf.io.TFRecordWriter(asked) as writer:
        for part in itertools.chain.from_iterable(rows):
          writer.write(part)
      _, errors = self._process.communicate(json.dumps([str(directory), asked, answered, batch_size]) + "\n")
      if self._process.returncode:
        last = (errors.strip().splitlines() or [f"exit code {self._process.returncode}"])[-1]
        raise RunFailed(f"export check: the export does not run in a new process ({last}); no export is left")
      with np.load(answered) as answers:
        return {name: answers[name] for name in answers.files}


def export_and_prove(
  model: Model,
  directory: pathlib.Path | str,
  inputs: Inputs,
  outputs: np.ndarray,
  client: Client | None = None,
  batch_size: int = BATCH,
) -> dict:
  """Writes the SavedModel of a model and checks that a new process answers as the evaluation did.

  Args:
    model: the `Model`.
    directory: directory of the export. An earlier export is replaced once the new one has passed the check.
    inputs: inputs of the test split.
    outputs: float [n, outputs], the answers of the evaluation, see `Answers.outputs`.
    client: a `Client` that was started before, or None for a new one.
    batch_size: number of inputs that fit into a forward pass; a call has `BATCH` inputs at most.

  Returns:
    The result of the check, see `Answers.parity`.

  Raises:
    RunFailed: a label differs, an answer differs by more than `TOLERANCE`, or the new process failed. `directory` is
      gone then.
  """
  chosen = sample(len(inputs))
  log.info("export: writing the SavedModel, then %d test examples are answered by a new process", len(chosen))
  with files.atomic_path(directory) as new, client or Client(model.backbone.modality) as client:
    saved_model.write(model, new)
    try:
      return prove(new, model, inputs[chosen], np.asarray(outputs)[chosen], client, min(BATCH, batch_size))
    except RunFailed:
      shutil.rmtree(directory, ignore_errors=True)
      raise


def _encoded(row, modality):
  """Returns what a client sends for an example: a tuple of bytes, one for each column."""
  values, reasons = zip(*(modalities.of(modality).encode(value, allow_empty=True) for value in row))
  if any(reasons):
    raise RunFailed(f"export check: a test example cannot be read: {next(filter(None, reasons))}")
  return values


def sample(count: int) -> np.ndarray:
  """Returns the positions of the test examples that are checked, int [at most PARITY_EXAMPLES], of `count`."""
  return np.unique(np.linspace(0, count - 1, min(PARITY_EXAMPLES, count)).round().astype(int))


def prove(
  directory: pathlib.Path | str, model: Model, inputs: Inputs, outputs: np.ndarray, client: Client, batch_size: int
) -> dict:
  """Returns the result of the check that `client` gives `outputs` for `inputs` with the SavedModel at `directory`.

  Raises:
    RunFailed: the answers differ.
  """
  answers = client.answer(directory, [_encoded(row, model.backbone.modality) for row in inputs.rows()], batch_size)
  parity = model.task.answers.parity(answers, outputs)
  if not model.task.answers.is_equal(parity, TOLERANCE):
    raise RunFailed(f"export check: {model.task.answers.describe_parity(parity)}; no export is left")
  return parity
