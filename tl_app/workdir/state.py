"""The saved state of an unfinished run, from which the same command continues.

The states are in `resume/`, see `state_files`. When one is written, the one before it is kept.
"""

import dataclasses
import importlib.metadata
import logging
import os
import pathlib
import shutil
import time
import typing
from collections.abc import Callable, Iterable, Mapping

from tl_app import config as config_lib
from tl_app.errors import UserError
from tl_app.workdir import state_files
from tl_app.workdir.paths import Workdir

log = logging.getLogger(__name__)

# States that are kept, the newest included.
KEPT = 2
# Largest share of the time of a run that saving takes: a slow disk makes the states rarer.
SHARE = 0.02
# Packages whose versions decide the results of a run.
PACKAGES = ("tl_app", "tensorflow", "keras")


@dataclasses.dataclass(frozen=True)
class _Part:
  """A part of a state, ready to be written.

  Attributes:
    tree: a JSON value in which each array is {"array": sha256}.
    arrays: {sha256: array}.
  """

  tree: typing.Any
  arrays: dict


class RunState:
  """What an unfinished run has decided and done, in memory and on disk.

  A state has parts by name: values that JSON can hold, and NumPy arrays, nested in dicts and lists. Arrays of the same
  content are stored once. Those of the variables before training (`know`) are not stored: the backbone has them.

  Attributes:
    directory: of the states; None if nothing is saved.
    continued: whether the run continues a saved one.
    is_saved: whether there is a state on disk.
    seconds: {name: seconds} of the run when it was saved.
    count: number of states that this process has written.
  """

  def __init__(self, run: Workdir | None = None, config: config_lib.Config | None = None, saved: Mapping | None = None):
    """Creates the state of a run that starts or continues now; see `load`.

    Args:
      run: the `Workdir`; None for a run that saves nothing.
      config: the `Config` of the run.
      saved: the values of a saved state, with "arrays"; None for a new run.
    """
    self.directory = run.resume if run else None
    self.continued = self.is_saved = False
    self.seconds: dict[str, float] = {}
    self.count = 0
    self._run, self._config = run, config
    self._start, self._before = time.monotonic(), 0.0
    self._saved_at, self._cost = self._start, 0.0
    self._decisions: dict[str, typing.Any] = {}
    self._parts: dict[str, _Part] = {}
    self._decoded: dict[str, typing.Any] = {}
    self._known: dict[str, typing.Any] = {}
    if saved:
      self.continued = self.is_saved = True
      self.seconds, self._before, self._decisions = saved["seconds"], saved["elapsed"], saved["decisions"]
      self._parts = {name: _Part(tree, saved["arrays"]) for name, tree in saved["parts"].items()}

  @classmethod
  def load(cls, run: Workdir, config: config_lib.Config) -> "RunState":
    """Returns the newest undamaged state of a run, or a new one. Files that grow are cut to what they were.

    Raises:
      UserError: a flag or the version of a package differs from those of the saved run.
    """
    numbers = state_files.numbers(run.resume)
    for number in reversed(numbers):
      try:
        values = state_files.read(run.resume / number)
      except (OSError, ValueError, KeyError, TypeError) as error:
        older = "the one before it is used" if number != numbers[0] else "there is no other: the run starts again"
        log.warning("the saved state %s is damaged (%s); %s", run.resume / number, _one_line(error), older)
        shutil.rmtree(run.resume / number, ignore_errors=True)
        continue
      _check_same(run, values, config)
      _cut(run, values["files"])
      log.info("continuing the run in %s, as saved at %s", run.root, values["time"])
      return cls(run, config, values)
    return cls(run, config)

  @property
  def elapsed(self) -> float:
    """The seconds since the run was started, without the time between its processes."""
    return self._before + time.monotonic() - self._start

  def decide(self, name: str, make: Callable[[], typing.Any]) -> typing.Any:
    """Returns the decision of the saved run, or that of `make`, a JSON value, which is saved with the next state."""
    if not self.directory:
      return make()
    if name not in self._decisions:
      self._decisions[name] = make()
    return self._decisions[name]

  def decided(self, name: str) -> typing.Any:
    """Returns a decision, or None if there is none yet."""
    return self._decisions.get(name)

  def agree(self, name: str, value: typing.Any, problem: str) -> None:
    """Checks a value that must be the same when the run continues.

    Args:
      name: of the value among the decisions.
      value: a JSON value.
      problem: what differs, the beginning of the message.

    Raises:
      UserError: the saved run had another value.
    """
    if self.decide(name, lambda: value) != value:
      raise UserError(f"{problem}: {_remedy(self._run)}")

  def know(self, variables: Iterable) -> None:
    """Notes the values of the variables before training. A continued run gets its arrays here.

    Args:
      variables: Keras variables.

    Raises:
      UserError: the saved run had other values, which it did not store.
    """
    if not self.directory:
      return
    for variable in variables:
      value = state_files.numpy(variable)
      self._known.setdefault(state_files.sha256(value), value if self.continued else None)
    for name, part in self._parts.items():
      used = set(state_files.references(part.tree))
      if not used <= {*part.arrays, *self._known}:
        raise UserError(f"the weights of --backbone have changed since the run began: {_remedy(self._run)}")
      self._decoded[name] = state_files.decode(part.tree, self._known | part.arrays)
      self._parts[name] = _Part(part.tree, {sha: part.arrays[sha] for sha in used if sha in part.arrays})
    self._known = dict.fromkeys(self._known)

  def has(self, name: str) -> bool:
    """Returns whether the saved run has a part that nobody has taken yet."""
    return name in self._decoded

  def take(self, name: str) -> typing.Any:
    """Returns a part of the saved run, or None if it has none. The next call returns None: arrays take memory."""
    return self._decoded.pop(name, None)

  def set_part(self, name: str, tree: typing.Any) -> None:
    """Sets a part of the next state; None removes it.

    Args:
      name: of the part.
      tree: nested dicts and lists of JSON values and NumPy arrays. The arrays must not change until they are saved.
    """
    self._parts.pop(name, None)
    if tree is not None and self.directory:
      arrays: dict = {}
      self._parts[name] = _Part(state_files.encode(tree, arrays, self._known), arrays)

  def is_due(self, minutes: float) -> bool:
    """Returns whether it is time for another state.

    Args:
      minutes: time between two states; 0 never.
    """
    pause = max(60 * minutes, self._cost / SHARE)
    return bool(self.directory and minutes) and time.monotonic() - self._saved_at >= pause

  def save(self, seconds: Mapping[str, float], growing: Iterable[pathlib.Path]) -> None:
    """Writes the state to disk.

    Args:
      seconds: {name: seconds} of the run.
      growing: files that a run appends to; one that continues cuts them to the size of now.
    """
    if self.directory is None or self._run is None or self._config is None:
      return
    start = time.monotonic()
    values = {
      "format": state_files.FORMAT,
      "time": time.strftime("%Y-%m-%d %H:%M:%S"),
      "config": dataclasses.asdict(self._config),
      "packages": packages(),
      "elapsed": self.elapsed,
      "seconds": dict(seconds),
      "files": {str(path.relative_to(self._run.root)): path.stat().st_size for path in growing if path.is_file()},
      "decisions": self._decisions,
      "parts": {name: part.tree for name, part in self._parts.items()},
    }
    arrays: dict = {}
    for part in self._parts.values():
      arrays |= part.arrays
    state_files.write(self.directory, values, arrays, KEPT)
    self.is_saved, self._saved_at, self.count = True, time.monotonic(), self.count + 1
    self._cost = self._saved_at - start

  def remove(self) -> None:
    """Deletes the states: the run is finished."""
    if self.directory:
      shutil.rmtree(self.directory, ignore_errors=True)
      self.is_saved = False


def packages() -> dict[str, str]:
  """Returns {package: version} of those whose versions decide the results of a run."""
  found = {}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      # The code of tl_app also runs from a checkout.
      found[name] = "not installed"
  return found


def _check_same(run, values, config):
  earlier = config_lib.from_values(values["config"], str(run.resume))
  differences = config_lib.differences(earlier, config)
  if differences:
    raise UserError(f"--workdir={run.root} holds an unfinished run with other flags ({differences}): {_remedy(run)}")
  now = packages()
  for name, version in values["packages"].items():
    if now.get(name) != version:
      raise UserError(
        f"the unfinished run in {run.root} was started with {name} {version}, and {now.get(name)} is installed: "
        f"{_remedy(run)}"
      )


def _remedy(run):
  return f"give what it was started with to continue it, or --resume=fresh to set it aside and start again ({run.root})"


def _cut(run, sizes):
  """Cuts the files that grow to their sizes when the state was saved, and deletes those that came later."""
  for path in (run.log, *run.tensorboard.rglob("*tfevents*")):
    size = sizes.get(str(path.relative_to(run.root)))
    if size is None:
      path.unlink(missing_ok=True)
    elif path.is_file() and path.stat().st_size > size:
      os.truncate(path, size)


def _one_line(error):
  return " ".join(str(error).split())[:200]
