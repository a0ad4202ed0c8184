"""Who writes to a workdir: one process at a time, which replaces a run, or continues one that was interrupted."""

import contextlib
import dataclasses
import logging
import pathlib
import shutil
from collections.abc import Iterator

from tl_app import config as config_lib
from tl_app import files
from tl_app.config.paths import expanded
from tl_app.errors import RunFailed, UserError
from tl_app.files import checksums, locks
from tl_app.files.locks import Lock
from tl_app.workdir.paths import LOCK, Workdir
from tl_app.workdir.record import Record, verified
from tl_app.workdir.state import RunState

log = logging.getLogger(__name__)

# Beginning of the names of the directories in which --resume=fresh keeps unfinished runs.
ASIDE = "unfinished-"
# Errors about a path that a flag names.
_WRONG_PATHS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


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
  with _opened(root, config) as run, _written(run, config, RunState()):
    yield run


@contextlib.contextmanager
def resumable(root: str | pathlib.Path, config: config_lib.Config) -> Iterator[Record]:
  """As `claim`, for a run that saves its state: one that was interrupted continues. Yields its `Record`.

  A run that has saved its state keeps it, whatever ends the block, but for `RunFailed`, for errors after which other
  flags must be given, and for a failure after its metrics were written. If it repeats a finished run, that one is
  restored, and the files of the interrupted run wait beside it.

  Raises:
    UserError: as `claim`; or the saved run had other flags or other versions of packages.
  """
  with _opened(root, config) as run:
    waiting = run.waiting.is_dir()
    if waiting:
      _exchange(run, run.earlier, run.waiting)
    if config.resume == "fresh":
      _set_aside(run)
    try:
      state = RunState.load(run, config)
    except UserError:
      if waiting:
        _exchange(run, run.waiting, run.earlier)
      raise
    if not state.continued and run.metrics.is_file():
      log.info(
        "%s holds a finished run of these flags: it is trained again; until the new run ends, the files of the "
        "finished one are in %s",
        *(run.root, run.earlier),
      )
    with _written(run, config, state):
      yield Record(run, state)


@contextlib.contextmanager
def _opened(root, config):
  """Creates, checks and locks a workdir; an empty one that is new is deleted in the end."""
  run = Workdir(pathlib.Path(expanded(root)))
  try:
    new = not run.root.exists()
    run.root.mkdir(parents=True, exist_ok=True)
  except FileExistsError:
    raise UserError(f"--workdir={root} is a file: give a directory") from None
  except OSError as error:
    raise UserError(f"--workdir={root} cannot be created: {error.strerror}") from None
  check_contents(run.root, config)
  with _locked(run):
    if run.moving.is_dir():
      _end_move(run)
      check_contents(run.root, config)
    try:
      yield run
    finally:
      if new and [path.name for path in run.root.iterdir()] == [LOCK]:
        shutil.rmtree(run.root)


@contextlib.contextmanager
def _written(run, config, state):
  """Moves an earlier run aside, unless its state continues, and restores or deletes it in the end."""
  if not state.continued:
    if _was_killed(run):
      _restore(run)
    _move_aside(run)
  else:
    # They are written again.
    _remove([*run.results(), run.checksums])
  continues = False
  try:
    files.write_text(run.config, config_lib.to_json(dataclasses.replace(config, workdir=str(run.root))))
    yield
    state.remove()
  except BaseException as error:
    continues = state.is_saved and not _ends(run, state, error)
    if not continues:
      state.remove()
      _undo(run, error)
    elif not run.metrics.is_file():
      _remove(run.results())
    raise
  finally:
    if continues and Workdir(run.earlier).metrics.is_file():
      _exchange(run, run.waiting, run.earlier)
    _remove([run.earlier])


def _ends(run, state, error):
  """Whether a run that has saved its state is not to be continued after an error."""
  if isinstance(error, (UserError, *_WRONG_PATHS)):
    # A new run must be started with other flags. One that continues was started with other flags or data.
    return not state.continued
  # A run that was measured lacks its export alone, which `export` writes.
  return isinstance(error, RunFailed) or (isinstance(error, Exception) and run.metrics.is_file())


def _undo(run, error):
  """Restores the earlier run, or removes the results of the unfinished one."""
  finished_before = Workdir(run.earlier).metrics.is_file()
  if finished_before or (isinstance(error, (UserError, OSError)) and not run.metrics.is_file()):
    _restore(run)
  elif not run.metrics.is_file():
    _remove(run.results())


def open_run(root: str | pathlib.Path) -> tuple[Workdir, config_lib.Config]:
  """Returns (Workdir, Config) of a finished run.

  Raises:
    UserError: there is no finished run.
  """
  run = Workdir(pathlib.Path(expanded(root)))
  if _was_killed(run) or run.moving.is_dir():
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


def _was_killed(run):
  """Whether a process that repeated a finished run was killed. The finished run is then in `earlier`."""
  return Workdir(run.earlier).metrics.is_file() and not run.metrics.is_file()


def check_contents(root: str | pathlib.Path, config: config_lib.Config) -> None:
  """Raises `UserError` if `root` holds a finished run with other flags, or files of something else."""
  run = Workdir(pathlib.Path(expanded(root)))
  if run.moving.is_dir():
    # Files are on their way between two directories: who gets the lock checks them.
    return
  finished = Workdir(run.earlier) if _was_killed(run) else run
  if finished.config.is_file():
    if finished.metrics.is_file():
      earlier = config_lib.from_json(finished.config.read_text(encoding="utf-8"), str(finished.config))
      differences = config_lib.differences(earlier, config)
      if differences:
        raise UserError(
          f"--workdir={run.root} holds another run ({differences}): repeat its flags, choose another directory, or "
          "delete it"
        )
  elif run.root.is_dir() and any(path.name not in (LOCK, run.earlier.name) for path in run.root.iterdir()):
    raise UserError(f"--workdir={run.root} is not empty and holds no run of tl_app: choose another directory")


def check_output(root: str | pathlib.Path) -> None:
  """Raises `UserError` if a command whose results are no run cannot make `root`; nothing is made."""
  root = pathlib.Path(expanded(root))
  nearest = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
  if not nearest.is_dir():
    raise UserError(f"--workdir={root} cannot be made: {nearest} is a file; choose another directory")


def saved_config(root: str | pathlib.Path) -> config_lib.Config | None:
  """Returns the `Config` of the run in a directory, finished or not; None if there is none."""
  run = Workdir(pathlib.Path(expanded(root)))
  for found in (run, Workdir(run.moving), Workdir(run.earlier)):
    if found.config.is_file():
      return config_lib.from_json(found.config.read_text(encoding="utf-8"), str(found.config))
  return None


@contextlib.contextmanager
def _locked(run):
  with open(run.root / LOCK, "w") as lock:
    outcome = locks.acquire(lock)
    if outcome is Lock.TAKEN:
      raise UserError(f"--workdir={run.root} is in use by another process: choose another directory")
    if outcome is Lock.NOT_AVAILABLE:
      log.warning("--workdir=%s: its file system has no locks: start no second run in this directory", run.root)
    yield


def _set_aside(run):
  """Moves an unfinished run to a directory of its own."""
  if not run.resume.is_dir():
    return
  number = 1
  while (run.root / f"{ASIDE}{number}").exists():
    number += 1
  aside = run.root / f"{ASIDE}{number}"
  _move(run, aside)
  log.info("--resume=fresh: the unfinished run is set aside in %s; delete it when you do not need it", aside)


def _move_aside(run):
  _remove([run.earlier])
  _move(run, run.earlier)


def _exchange(run, to, back):
  """Moves the files of a run to one directory, and those in another one back."""
  # A process that was killed between the two has left nothing to move.
  if any(path.exists() for path in run.all_paths()):
    _remove([to])
    _move(run, to)
  _move_back(run, back)


def _move(run, directory):
  """Moves the files of a run to a new directory. If the process is killed meanwhile, the next one moves them back."""
  run.moving.mkdir()
  for path in run.all_paths():
    if path.exists():
      path.rename(run.moving / path.name)
  run.moving.rename(directory)


def _move_back(run, directory):
  """Moves the files in a directory back. If the process is killed meanwhile, the next one moves the others."""
  directory.rename(run.moving)
  _end_move(run)


def _end_move(run):
  for path in run.moving.iterdir():
    path.rename(run.root / path.name)
  run.moving.rmdir()


def _restore(run):
  # Without metrics.json a process that is killed here has left an unfinished run.
  _remove([run.metrics, *run.all_paths()])
  _move_back(run, run.earlier)


def _remove(paths):
  for path in paths:
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink(missing_ok=True)
