"""The files of a run: their one writer, and the functions that read them."""

import contextlib
import copy
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterable, Iterator

from tl_app import config as config_lib
from tl_app import files
from tl_app.errors import UserError
from tl_app.files import checksums
from tl_app.workdir.paths import PATH_FORMS, Workdir
from tl_app.workdir.state import RunState

# Number of the layout of the JSON files of a workdir; each has it under the key "format".
FORMAT = 1


class Clock:
  """Measures seconds by name.

  The time of a clock inside another counts for the inner one only.

  Attributes:
    seconds: {name: seconds}.

  Example:
    clock = Clock(["train"])
    with clock("train"):
      ..
  """

  def __init__(self, names: Iterable[str] = ()):
    self.seconds = dict.fromkeys(names, 0.0)
    # For each open block [name, start, seconds of the blocks inside it that have ended].
    self._open: list[list] = []

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    """Adds the seconds of the block to `seconds[name]`, without those of the clocks inside it."""
    block = [name, time.monotonic(), 0.0]
    self._open.append(block)
    try:
      yield
    finally:
      self._open.pop()
      passed = time.monotonic() - block[1]
      self.seconds[name] = self.seconds.get(name, 0.0) + passed - block[2]
      if self._open:
        self._open[-1][2] += passed

  def so_far(self) -> dict[str, float]:
    """Returns {name: seconds}, with the seconds so far of the blocks that are open."""
    now, seconds, inside = time.monotonic(), dict(self.seconds), 0.0
    for name, start, nested in reversed(self._open):
      seconds[name] = seconds.get(name, 0.0) + now - start - nested - inside
      inside = now - start
    return seconds


class Record:
  """Writes the JSON files of a workdir, each with its `format` number, and measures the time of the run.

  Attributes:
    paths: `Workdir`.
    state: the `RunState`, from which an interrupted run continues.
    clock: `Clock`: `with record.clock("train"):`.
  """

  def __init__(self, paths: Workdir, state: RunState | None = None):
    """Creates the record.

    Args:
      paths: `Workdir`.
      state: the `RunState`; None for a run that is not saved while it trains.
    """
    self.paths = paths
    self.state = state or RunState()
    self.clock = Clock(["features", "train", "evaluate", "export"])
    self.clock.seconds |= self.state.seconds
    self._plan, self._notes = {}, {}

  @property
  def seconds(self) -> dict[str, float]:
    """{"features", "train", "evaluate", "export"}: seconds so far."""
    return self.clock.seconds

  def write_plan(self, values: dict) -> None:
    """Writes plan.json with what `note` has been given before; it replaces the values of an earlier call."""
    self._plan = values
    self._write(self.paths.plan, {**values, **self._notes})

  def note(self, name: str, value: object) -> None:
    """Adds a decision or a measurement to plan.json, which is written at once if `write_plan` has written it."""
    self._notes[name] = value
    if self.paths.plan.is_file():
      self.write_plan(self._plan)

  def write_splits(self, manifest: dict) -> None:
    """Writes splits.json."""
    self._write(self.paths.splits, manifest)

  def write_findings(self, values: dict) -> None:
    """Writes findings.json."""
    self._write(self.paths.findings, values)

  def write_vocabulary(self, tokens: Iterable[str]) -> None:
    """Writes a learnt vocabulary, if there are tokens: one a line, as in the vocabulary files of BERT."""
    write_vocabulary(self.paths.vocabulary, tokens)

  def write_explanations(self, path: pathlib.Path, values: dict) -> None:
    """Writes a file of what `explain` found."""
    self._write(path, values)

  def write_task(self, values: dict, directory: pathlib.Path | None = None) -> None:
    """Writes task.json beside the weights whose logits it reads: those of the selected model, or of a candidate."""
    self._write((directory or self.paths.task.parent) / self.paths.task.name, values)

  def write_metrics(self, values: dict) -> None:
    """Writes metrics.json, which makes the run a finished one, and the checksums of its files."""
    run = self.paths
    if not run.metrics.exists():
      checksums.write(run.root, run.read_back(), settings=_settings(run.config))
    self._write(run.metrics, values)

  def replaced(self, path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Returns a context whose block writes a file or a directory of a finished run, see `checksums.replaced`."""
    return checksums.replaced(self.paths.root, path)

  def save_state(self) -> None:
    """Saves the state of the run, if it is one that continues."""
    if self.state.directory:
      with self.clock("checkpoints"):
        self.state.save(self.clock.so_far(), (self.paths.log, *sorted(self.paths.tensorboard.rglob("*tfevents*"))))

  def without_state(self) -> "Record":
    """Returns a record of the same run that saves no state."""
    record = copy.copy(self)
    record.state = RunState()
    return record

  def log_epoch(self, values: dict) -> None:
    """Appends a line to log.jsonl."""
    with open(self.paths.log, "a", encoding="utf-8") as file:
      file.write(json.dumps(values) + "\n")

  def _write(self, path, values):
    with self.replaced(path):
      files.write_json(path, {"format": FORMAT, **values})


def read(path: pathlib.Path) -> dict:
  """Returns the JSON object of a file that `Record` wrote, without its format number.

  Raises:
    OSError, ValueError: the file is missing or damaged.
    UserError: it is not what the run wrote, or a newer tl_app wrote it.
  """
  values = files.read_json(verified(path))
  if not isinstance(values, dict):
    raise ValueError(f"{path} holds no JSON object")
  found = values.pop("format", FORMAT)
  if found != FORMAT:
    raise UserError(f"{path} has format {found}, and this tl_app reads format {FORMAT}: update tl_app")
  return values


def verified(path: pathlib.Path) -> pathlib.Path:
  """Returns the path of a file of a run, see `checksums.verified`. The paths in config.json may have been corrected.

  Raises:
    UserError: the file is not what the run wrote.
  """
  try:
    return checksums.verified(path)
  except checksums.ChecksumError:
    written = path == Workdir(path.parent).config and checksums.facts(path.parent).get("settings")
    if written and path.is_file() and _settings(path) == written:
      return path
    raise


def _settings(path):
  """Returns the SHA-256 hash of a config.json without the paths in it; "" if it cannot be read."""
  try:
    values = files.read_json(path)
    named = {name for name, field in config_lib.FIELDS.items() if field.metadata["path"] and name in values}
    kept = {name: value for name, value in values.items() if name not in named or not _is_path(value)}
  except (OSError, ValueError, AttributeError):
    return ""
  return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _is_path(value):
  return os.sep in str(value) or str(value).partition(":")[0] in PATH_FORMS


def write_vocabulary(path: pathlib.Path, tokens: Iterable[str]) -> None:
  """Writes tokens, one a line, if there are any."""
  text = "".join(f"{token}\n" for token in tokens)
  if text:
    files.write_text(path, text)


def read_vocabulary(path: pathlib.Path) -> tuple[str, ...]:
  """Returns the tokens that `write_vocabulary` wrote; () if there is no such file."""
  return tuple(verified(path).read_bytes().decode("utf-8").split("\n")[:-1]) if path.is_file() else ()


def read_plan(run: Workdir) -> dict:
  """Returns plan.json of a finished run.

  Raises:
    UserError: the file is missing or damaged, or a newer tl_app wrote it.
  """
  try:
    return read(run.plan)
  except (OSError, ValueError):
    raise UserError(f"{run.plan} is damaged: train again") from None
