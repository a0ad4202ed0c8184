"""The directory of one run: what lies where, and who may write there."""

import contextlib
import dataclasses
import fcntl
import pathlib
import shutil

from tl_app import config as config_lib
from tl_app import files
from tl_app.errors import UserError

LOCK = ".lock"


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths of one run."""

  root: pathlib.Path

  @property
  def config(self):
    """The final flags, re-runnable with `--config`."""
    return self.root / "config.json"

  @property
  def plan(self):
    """Backbone, stages, phases, preprocessing, class names."""
    return self.root / "plan.json"

  @property
  def splits(self):
    """Which example is in which split."""
    return self.root / "splits.json"

  @property
  def findings(self):
    """What is wrong with the data."""
    return self.root / "findings.json"

  @property
  def weights(self):
    """The weights that ship: every variable of the network."""
    return self.root / "checkpoints" / "model.weights.h5"

  @property
  def task(self):
    """How the logits of these weights are read."""
    return self.root / "checkpoints" / "task.json"

  @property
  def metrics(self):
    """Every figure of the run; written when all but the report is: a run with it is complete."""
    return self.root / "metrics.json"

  @property
  def predictions(self):
    """id,label,prediction,score of each test example."""
    return self.root / "predictions_test.csv"

  @property
  def report(self):
    """One offline page."""
    return self.root / "report.html"

  @property
  def export(self):
    """The SavedModel."""
    return self.root / "export"

  @property
  def log(self):
    """One JSON object an epoch."""
    return self.root / "log.jsonl"

  @property
  def tensorboard(self):
    """Event files."""
    return self.root / "tensorboard"

  @property
  def earlier(self):
    """What lay here before the run in progress."""
    return self.root / ".earlier"

  def conclusions(self):
    """Returns the paths that a reader takes for the results of a complete run."""
    return self.metrics, self.predictions, self.report, self.export

  def everything(self):
    """Returns the paths of all that a run writes."""
    before = (self.config, self.plan, self.splits, self.findings, self.log, self.weights.parent, self.tensorboard)
    return before + self.conclusions()


@contextlib.contextmanager
def claim(root, config):
  """Makes `root` the workdir of `config` and holds it while the block runs.

  A finished run of the same flags is run again, an unfinished one is replaced. When the block raises `UserError` or
  `OSError`, what lay in `root` before lies there again, and a finished run does however the block ends early, after a
  killed process at the next call; else nothing in `root` then looks like the results of a complete run.

  Raises:
    UserError: the directory holds a finished run of other flags, files that are no run, or a run in progress.
  """
  run = Workdir(pathlib.Path(root))
  try:
    new = not run.root.exists()
    run.root.mkdir(parents=True, exist_ok=True)
  except FileExistsError:
    raise UserError(f"--workdir={root} is a file: give a directory") from None
  except OSError as error:
    raise UserError(f"--workdir={root} cannot be made: {error.strerror}") from None
  _refuse_foreign(run, config)
  with _locked(run):
    if _killed_again(run):
      _put_back(run)
    _set_aside(run)
    try:
      files.write_text(run.config, config_lib.to_json(dataclasses.replace(config, workdir=str(root))))
      yield run
    except (UserError, OSError):
      _put_back(run)
      raise
    except BaseException:
      if Workdir(run.earlier).metrics.is_file():
        _put_back(run)
      else:
        _remove(run.conclusions())
      raise
    finally:
      _remove([run.earlier])
      if new and [path.name for path in run.root.iterdir()] == [LOCK]:
        shutil.rmtree(run.root)


def open_run(root):
  """Returns (Workdir, Config) of a finished run.

  Raises:
    UserError: no finished run lies there.
  """
  run = Workdir(pathlib.Path(root))
  if _killed_again(run):
    raise UserError(
      f"--workdir={root}: a second run is going on there, or was killed: wait for it, or start it again; the finished "
      "one is kept until it ends"
    )
  for path in (run.config, run.plan, run.weights, run.task, run.metrics):
    if not path.is_file():
      raise UserError(f"--workdir={root} holds no finished run: {path.relative_to(run.root)} is missing; train first")
  return run, config_lib.from_json(run.config.read_text(encoding="utf-8"), str(run.config))


def _killed_again(run):
  """Whether a process that repeated a finished run was killed: what was finished lies aside."""
  return Workdir(run.earlier).metrics.is_file() and not run.metrics.is_file()


def _refuse_foreign(run, config):
  finished = Workdir(run.earlier) if _killed_again(run) else run
  if finished.config.is_file():
    if finished.metrics.is_file():
      earlier = config_lib.from_json(finished.config.read_text(encoding="utf-8"), str(finished.config))
      names = config_lib.differing(earlier, config)
      if names:
        shown = ", ".join(f"--{name}={getattr(earlier, name)}" for name in names[:3])
        raise UserError(f"--workdir={run.root} holds another run ({shown}): choose another directory or delete it")
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


def _set_aside(run):
  _remove([run.earlier])
  run.earlier.mkdir()
  for path in run.everything():
    if path.exists():
      path.rename(run.earlier / path.name)


def _put_back(run):
  _remove(run.everything())
  for path in run.earlier.iterdir():
    path.rename(run.root / path.name)


def _remove(paths):
  for path in paths:
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink(missing_ok=True)
