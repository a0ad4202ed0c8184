"""The export check: a new process answers test examples with the export as the evaluation did."""

import collections
import contextlib
import dataclasses
import io
import itertools
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tl_app import files
from tl_app.data import modalities
from tl_app.data.examples import Inputs
from tl_app.errors import RunFailed
from tl_app.errors.counts import number_of
from tl_app.files import checksums
from tl_app.model.model import Model
from tl_app.serving import fresh_process, handover, saved_model

log = logging.getLogger(__name__)

# Test examples that are checked, evenly spaced over the split.
PARITY_EXAMPLES = 512
TOLERANCE = 1e-4
# Largest number of inputs in a call.
BATCH = 32
# Test examples of which the shortest is the example of the export's README.
EXAMPLES = 16
# Last lines of the new process's standard error that are kept.
ERROR_LINES = 100


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
    self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    pipes = self._process.stdin, self._process.stdout, self._process.stderr
    self._stdin, self._stdout, self._stderr = typing.cast(tuple[typing.IO[bytes], ...], pipes)
    # Read all the time: a full pipe would stop the process.
    self._errors = collections.deque(maxlen=ERROR_LINES)
    self._reader = threading.Thread(target=lambda: self._errors.extend(self._stderr), daemon=True)
    self._reader.start()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if self._process.poll() is None:
      self._process.kill()
    self._process.wait()
    self._reader.join()
    for pipe in (self._stdin, self._stdout, self._stderr):
      with contextlib.suppress(OSError):
        pipe.close()

  def answer(
    self, directory: pathlib.Path | str, batches: Iterable[Sequence[tuple[bytes, ...]]]
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields the outputs of `serving_default` of a SavedModel for each batch, by name. Call it once.

    Inputs and answers go through pipes, a batch at a time, so that nothing is written to a disk.

    Args:
      directory: directory of the SavedModel.
      batches: lists of rows, which are tuples of bytes, one for each column.

    Raises:
      RunFailed: the export does not run there.
    """
    try:
      self._stdin.write(json.dumps(str(directory)).encode() + b"\n")
      for batch in batches:
        values = list(itertools.chain.from_iterable(batch))
        self._stdin.write(json.dumps(list(map(len, values))).encode() + b"\n")
        self._stdin.writelines(values)
        self._stdin.flush()
        length = self._stdout.readline()
        if not length:
          raise BrokenPipeError
        with np.load(io.BytesIO(self._stdout.read(int(length)))) as answers:
          outputs = {name: answers[name] for name in answers.files}
        yield outputs
    except BrokenPipeError:
      code = self._process.wait()
      self._reader.join()
      lines = [line.decode(errors="replace").strip() for line in self._errors]
      last = ([line for line in lines if line] or [f"exit code {code}"])[-1]
      raise RunFailed(f"export check: the export does not run in a new process ({last}); no export is left") from None


@dataclasses.dataclass(frozen=True)
class Expected:
  """What the evaluation answered.

  Attributes:
    outputs: float [n, outputs], see `Answers.outputs`.
    ood_scores: float [n], the out-of-distribution scores of a model that has them, or None.
  """

  outputs: np.ndarray
  ood_scores: np.ndarray | None = None

  def take(self, rows: np.ndarray) -> "Expected":
    """Returns the answers to some of the inputs."""
    return Expected(np.asarray(self.outputs)[rows], None if self.ood_scores is None else self.ood_scores[rows])


def joined(answers: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Returns the outputs of several batches as those of one. Shorter outputs are filled with zeros, or ""."""
  answers = list(answers)
  return {name: _joined([answer[name] for answer in answers]) for name in answers[0]}


def _joined(batches):
  shape = [sum(map(len, batches)), *np.max([batch.shape[1:] for batch in batches], axis=0).astype(int)]
  joined = np.zeros(shape, np.result_type(*batches))
  start = 0
  for batch in batches:
    joined[(slice(start, start + len(batch)), *map(slice, batch.shape[1:]))] = batch
    start += len(batch)
  return joined


def export_and_prove(
  model: Model,
  directory: pathlib.Path | str,
  inputs: Inputs,
  outputs: np.ndarray | Expected,
  client: Client | None = None,
  batch_size: int = BATCH,
  about: handover.About | None = None,
) -> dict:
  """Writes the SavedModel of a model and checks that a new process answers as the evaluation did.

  Args:
    model: the `Model`.
    directory: directory of the export. An earlier export is replaced once the new one has passed the check.
    inputs: inputs of the test split.
    outputs: the answers of the evaluation: `Expected`, or float [n, outputs], see `Answers.outputs`.
    client: a `Client` that was started before, or None for a new one.
    batch_size: number of inputs that fit into a forward pass; a call has `BATCH` inputs at most.
    about: what the README of the export says; None writes the SavedModel alone.

  Returns:
    The result of the check, see `Answers.shared_parity`.

  Raises:
    RunFailed: a label differs, an answer differs by more than `TOLERANCE`, or the new process failed. `directory` is
      gone then.
  """
  chosen = sample(len(inputs))
  answered = number_of(len(chosen), "test example is", "test examples are")
  log.info("export: writing the SavedModel, then %s answered by a new process", answered)
  with files.atomic_path(directory) as new, client or Client(model.backbone.modality) as client:
    saved_model.write(model, new)
    if about:
      saved_model.remember_columns(new, about.columns)
    # What handover writes is for its readers, who may change it.
    checksums.write(new, sorted(path for path in new.rglob("*") if path.is_file()))
    try:
      expected = outputs if isinstance(outputs, Expected) else Expected(outputs)
      rows = inputs[chosen], expected.take(chosen)
      result, example, answer = prove(new, model, *rows, client, min(BATCH, batch_size))
    except RunFailed:
      shutil.rmtree(directory, ignore_errors=True)
      raise
    checksums.verify_all(new, checksums.EXPORT_AGAIN)
    if about:
      handover.write(new, model, about, example, answer)
    return result


def _encoded(row, modality):
  """Returns what a client sends for an example: a tuple of bytes, one for each column."""
  values, reasons = zip(*(modalities.of(modality).encode(value) for value in row))
  if any(reasons):
    raise RunFailed(f"export check: a test example cannot be read: {next(filter(None, reasons))}")
  return values


def sample(count: int) -> np.ndarray:
  """Returns the positions of the test examples that are checked, int [at most PARITY_EXAMPLES], of `count`."""
  return np.unique(np.linspace(0, count - 1, min(PARITY_EXAMPLES, count)).round().astype(int))


def prove(
  directory: pathlib.Path | str, model: Model, inputs: Inputs, expected: Expected, client: Client, batch_size: int
) -> tuple[dict, tuple[bytes, ...], dict[str, np.ndarray]]:
  """Checks that `client` gives the `expected` answers to `inputs` with the SavedModel at `directory`.

  Returns:
    (the result of the check; an example, one of the shortest inputs as a client sends it; the answer to it alone).

  Raises:
    RunFailed: the answers differ.
  """
  rows = (_encoded(row, model.backbone.modality) for row in inputs.rows())
  first = list(itertools.islice(rows, EXAMPLES))
  example = min(first, key=lambda row: (not all(row), sum(map(len, row))))
  rows = itertools.chain(first, rows)
  batches = iter(lambda: list(itertools.islice(rows, batch_size)), [])
  answer, *answers = client.answer(directory, itertools.chain([[example]], batches))
  answers = joined(answers)
  parity = model.task.answers.shared_parity(answers, expected.outputs, expected.ood_scores)
  if not model.task.answers.is_shared_equal(parity, TOLERANCE):
    raise RunFailed(f"export check: {model.task.answers.describe_shared_parity(parity)}; no export is left")
  return parity, example, answer
