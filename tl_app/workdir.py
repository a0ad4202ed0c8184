"""The directory of one run: paths, locking, and the writer of its files."""

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterable, Iterator

from tl_app import config as config_lib
from tl_app import files
from tl_app.errors import UserError
from tl_app.files import checksums

LOCK = ".lock"
# The file in an export that holds what its signatures do not tell: modality, task, stages.
EXPORT_FACTS = "assets.extra/tl_app.json"
# Key of a variable in the checkpoint of an export; the file above lists the positions by stage.
EXPORT_VARIABLE = "_variables/{position}/.ATTRIBUTES/VARIABLE_VALUE"
# The file in an export that holds a learnt vocabulary, see `read_vocabulary`.
EXPORT_VOCABULARY = "assets.extra/vocab.txt"
# Number of the layout of the JSON files of a workdir; each has it under the key "format".
FORMAT = 1
# Flags of the columns of the inputs of a table. An export remembers them, for `predict`.
INPUT_COLUMNS = ("text_column", "text_pair_column", "image_column")
# Forms of a data set that are followed by a path.
PATH_FORMS = ("images", "table", "tfrecord", "texts")


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths of one run."""

  root: pathlib.Path

  @property
  def config(self) -> pathlib.Path:
    """The settings of the run; `--config` reads them."""
    return self.root / "config.json"

  @property
  def plan(self) -> pathlib.Path:
    """Backbone, stages, phases, preprocessing, class names."""
    return self.root / "plan.json"

  @property
  def splits(self) -> pathlib.Path:
    """Which example is in which split."""
    return self.root / "splits.json"

  @property
  def findings(self) -> pathlib.Path:
    """Faults in the data."""
    return self.root / "findings.json"

  @property
  def weights(self) -> pathlib.Path:
    """Weights of the selected model: every variable of the network."""
    return self.root / "checkpoints" / "model.weights.h5"

  @property
  def task(self) -> pathlib.Path:
    """The fitted task: how the logits of these weights are read."""
    return self.root / "checkpoints" / "task.json"

  @property
  def vocabulary(self) -> pathlib.Path:
    """The vocabulary that was learnt from the training texts, for a backbone without its own."""
    return self.weights.parent / "vocab.txt"

  def candidate(self, name: str) -> pathlib.Path:
    """The directory of the weights and the task of a candidate."""
    return self.weights.parent / name

  @property
  def metrics(self) -> pathlib.Path:
    """All metrics of the run. A run that has this file has been measured: only report and export are written later."""
    return self.root / "metrics.json"

  @property
  def predictions(self) -> pathlib.Path:
    """Label, prediction and score of each test example."""
    return self.root / "predictions_test.csv"

  @property
  def report(self) -> pathlib.Path:
    """The report, one HTML page."""
    return self.root / "report.html"

  @property
  def export(self) -> pathlib.Path:
    """The SavedModel."""
    return self.root / "export"

  @property
  def backbone(self) -> pathlib.Path:
    """The pretrained backbone, which --backbone reads."""
    return self.root / "backbone"

  @property
  def corpus(self) -> pathlib.Path:
    """Copies of the texts of a pretraining, while it runs."""
    return self.root / ".corpus"

  @property
  def checksums(self) -> pathlib.Path:
    """The checksums of the files that other commands read."""
    return self.root / checksums.NAME

  @property
  def log(self) -> pathlib.Path:
    """One JSON object per epoch."""
    return self.root / "log.jsonl"

  @property
  def tensorboard(self) -> pathlib.Path:
    """Event files of TensorBoard."""
    return self.root / "tensorboard"

  @property
  def earlier(self) -> pathlib.Path:
    """Files of the previous run, while a new run is in progress."""
    return self.root / ".earlier"

  def results(self) -> tuple[pathlib.Path, ...]:
    """Returns the paths of the results of a finished run."""
    return self.metrics, self.predictions, self.report, self.export, self.backbone

  def all_paths(self) -> tuple[pathlib.Path, ...]:
    """Returns all paths that a run writes."""
    before = (self.config, self.plan, self.splits, self.findings, self.log, self.weights.parent, self.tensorboard)
    return (*before, self.corpus, self.checksums, *self.results())

  def read_back(self) -> list[pathlib.Path]:
    """Returns the files that exist and that other commands read, but metrics.json.

    Of export/ and backbone/, which may be copied alone, these are their checksums.
    """
    directories = (self.export / checksums.NAME, self.backbone / checksums.NAME)
    named = (self.config, self.plan, self.splits, self.findings, self.log, self.predictions, *directories)
    return [path for path in (*named, *sorted(self.weights.parent.rglob("*"))) if path.is_file()]


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
    self._nested = 0.0

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    """Adds the seconds of the block to `seconds[name]`, without those of the clocks inside it."""
    start, outer, self._nested = time.monotonic(), self._nested, 0.0
    try:
      yield
    finally:
      passed = time.monotonic() - start
      self.seconds[name] = self.seconds.get(name, 0.0) + passed - self._nested
      self._nested = outer + passed


class Record:
  """Writes the JSON files of a workdir, each with its `format` number, and measures the time of the run.

  Attributes:
    paths: `Workdir`.
    clock: `Clock`: `with record.clock("train"):`.
  """

  def __init__(self, paths: Workdir):
    self.paths = paths
    self.clock = Clock(["features", "train", "evaluate", "export"])
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


@contextlib.contextmanager
def claim(root: str | pathlib.Path, config: config_lib.Config) -> Iterator[Workdir]:
  """Makes `root` the workdir of `config` and locks it while the block runs; yields its `Workdir`.

  A finished run with the same flags is repeated, an unfinished one is replaced. If the block fails, a finished run that
  was in `root` is restored; after a killed process that happens at the next call. If there was none, a run that has
  written its metrics keeps all its files. Else `UserError` and `OSError` restore an unfinished run too; after any other
  failure the results of an unfinished run are removed.

  Raises:
    UserError: the directory holds a finished run with other flags, files of something else, or a run in progress.
  """
  run = Workdir(pathlib.Path(files.expanded(root)))
  try:
    new = not run.root.exists()
    run.root.mkdir(parents=True, exist_ok=True)
  except FileExistsError:
    raise UserError(f"--workdir={root} is a file: give a directory") from None
  except OSError as error:
    raise UserError(f"--workdir={root} cannot be created: {error.strerror}") from None
  _check_contents(run, config)
  with _locked(run):
    if _was_killed(run):
      _restore(run)
    _move_aside(run)
    try:
      files.write_text(run.config, config_lib.to_json(dataclasses.replace(config, workdir=str(run.root))))
      yield run
    except BaseException as error:
      finished_before = Workdir(run.earlier).metrics.is_file()
      if finished_before or (isinstance(error, (UserError, OSError)) and not run.metrics.is_file()):
        _restore(run)
      elif not run.metrics.is_file():
        _remove(run.results())
      raise
    finally:
      _remove([run.earlier])
      if new and [path.name for path in run.root.iterdir()] == [LOCK]:
        shutil.rmtree(run.root)


def open_run(root: str | pathlib.Path) -> tuple[Workdir, config_lib.Config]:
  """Returns (Workdir, Config) of a finished run.

  Raises:
    UserError: there is no finished run.
  """
  run = Workdir(pathlib.Path(files.expanded(root)))
  if _was_killed(run):
    raise UserError(
      f"--workdir={root}: a second run is in progress there, or was killed: wait for it, or start it again; the "
      "finished run is kept until it ends"
    )
  if run.backbone.is_dir() and run.metrics.is_file() and not run.weights.is_file():
    raise UserError(f"--workdir={root} is a pretraining, which has no answers: give --backbone={run.backbone} to train")
  for path in (run.config, run.plan, run.weights, run.task, run.metrics):
    if not path.is_file():
      raise UserError(f"--workdir={root} holds no finished run: {path.relative_to(run.root)} is missing; train first")
  checksums.is_listed(run.root)
  return run, config_lib.from_json(verified(run.config).read_text(encoding="utf-8"), str(run.config))


def place(run: Workdir) -> dict[str, str]:
  """Returns {"directory", "workdir"}: where the paths of a run's flags start now, and where its workdir is."""
  return {"directory": os.getcwd(), "workdir": str(run.root.resolve())}


def located(run: Workdir, config: config_lib.Config, names: Iterable[str]) -> config_lib.Config:
  """Returns the `Config` of a finished run with the named path flags as they lead to files now.

  A relative path starts in the directory in which the run was started. If the run has been moved, together with what
  lies around it, the path leads to the same place around it. Else it starts in the current directory.

  Args:
    run: the `Workdir`.
    config: its `Config`.
    names: of flags; a flag that is no path stays as it is.

  Raises:
    UserError: a path leads nowhere, or plan.json is damaged.
  """
  then = read_plan(run).get("started", {})
  return dataclasses.replace(config, **{name: _located(run, name, getattr(config, name), then) for name in names})


def _located(run, name, value, then):
  form, colon, path = value.partition(":")
  if not colon or form not in PATH_FORMS:
    form, colon, path = "", "", value
    if not path or "://" in path or name not in ("backbone", "preprocessor", "data_dir"):
      return value
  path = files.expanded(path)
  tried = [os.path.abspath(path)]
  if then:
    start = os.path.join(then["directory"], path)
    moved = os.path.join(run.root.resolve(), os.path.relpath(start, then["workdir"]))
    tried = list(dict.fromkeys(map(os.path.normpath, (start, moved, *tried))))
  found = next((place for place in tried if os.path.exists(place) or glob.glob(place)), None)
  if found is None and (form or os.sep in path):
    raise UserError(
      f"--{name}={value}, of {run.config}, leads nowhere: {' and '.join(tried)} do not exist; correct it in that file"
    )
  return f"{form}{colon}{found}" if found else value


def _was_killed(run):
  """Whether a process that repeated a finished run was killed. The finished run is then in `earlier`."""
  return Workdir(run.earlier).metrics.is_file() and not run.metrics.is_file()


def _check_contents(run, config):
  finished = Workdir(run.earlier) if _was_killed(run) else run
  if finished.config.is_file():
    if finished.metrics.is_file():
      earlier = config_lib.from_json(finished.config.read_text(encoding="utf-8"), str(finished.config))
      names = config_lib.differing(earlier, config)
      if names:
        shown = "; ".join(
          f"--{name}: {getattr(earlier, name)!r} there, {getattr(config, name)!r} here" for name in names[:3]
        )
        more = f"; and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(
          f"--workdir={run.root} holds another run ({shown}{more}): repeat its flags, choose another directory, or "
          "delete it"
        )
  elif run.root.is_dir() and any(path.name not in (LOCK, run.earlier.name) for path in run.root.iterdir()):
    raise UserError(f"--workdir={run.root} is not empty and holds no run of tl_app: choose another directory")


@contextlib.contextmanager
def _locked(run):
  with open(run.root / LOCK, "w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      raise UserError(f"--workdir={run.root} is in use by another process: choose another directory") from None
    yield


def _move_aside(run):
  _remove([run.earlier])
  run.earlier.mkdir()
  for path in run.all_paths():
    if path.exists():
      path.rename(run.earlier / path.name)


def _restore(run):
  _remove(run.all_paths())
  for path in run.earlier.iterdir():
    path.rename(run.root / path.name)


def _remove(paths):
  for path in paths:
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink(missing_ok=True)
