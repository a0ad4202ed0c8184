"""The trials of a search in one journal, which several processes share and from which a killed search continues."""

import contextlib
import dataclasses
import os
import pathlib
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from tl_app.errors import UserError
from tl_app.files import locks
from tl_app.files.locks import Lock

JOURNAL = "trials.journal"
# Name of the file that a process locks while it opens a search.
LOCK = "search.lock"
# Names of the attributes of a trial in the journal.
WORKER, REASON, FACTS, SAME_AS = "worker", "reason", "facts", "same_as"
METHODS = ("tpe", "random", "grid")
PRUNING = ("halving", "median", "none")
# Share of the trials that successive halving takes to the next step, which is this many times as long: 1 of 3.
REDUCTION = 3
# Number of trials, above that of all others, whose values another one had before, until a space counts as searched.
MOST_COPIES = 5
# Trials that are drawn at random before TPE models the others.
STARTUP_TRIALS = 6

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class _JournalLock(JournalFileOpenLock):
  """A lock that ends with its process, and under which the journal has no half-written line."""

  def __init__(self, journal):
    super().__init__(journal)
    self._journal = journal
    self._file = None

  def acquire(self):
    self._file = open(f"{self._journal}.lock", "a")  # noqa: SIM115
    locks.acquire(self._file, wait=True)
    _cut_half_line(self._journal)
    return True

  def release(self):
    if self._file:
      self._file.close()
    self._file = None


def _cut_half_line(path):
  """Removes what a killed process has left of a line at the end of the journal."""
  with open(path, "r+b") as file:
    size = file.seek(0, os.SEEK_END)
    if size and (file.seek(size - 1), file.read(1))[1] != b"\n":
      file.seek(0)
      file.truncate(file.read().rfind(b"\n") + 1)


class Workers:
  """The processes of a search. Each holds the lock of a file while it runs, so that others see that it does.

  Attributes:
    name: of this process.
  """

  def __init__(self, root: pathlib.Path):
    """Registers this process in the directory of the search.

    Raises:
      UserError: the file system has no locks.
    """
    self._directory = root / "workers"
    self._directory.mkdir(parents=True, exist_ok=True)
    self.name = uuid.uuid4().hex[:12]
    self._file = open(self._directory / self.name, "w")  # noqa: SIM115
    if locks.acquire(self._file) is Lock.NOT_AVAILABLE:
      raise UserError(f"--workdir={root} is on a file system without locks: choose another directory")

  def is_alive(self, name: str) -> bool:
    """Returns whether the process `name` runs; this one does."""
    if name == self.name:
      return True
    try:
      with open(self._directory / name) as file:
        return locks.acquire(file) is Lock.TAKEN
    except OSError:
      return False

  def close(self) -> None:
    """Ends the registration of this process."""
    (self._directory / self.name).unlink(missing_ok=True)
    self._file.close()


@dataclasses.dataclass(frozen=True)
class Row:
  """A trial as it stands in the journal.

  Attributes:
    number: from 0, in its study.
    state: "complete", "pruned", "failed", "running", "waiting".
    values: {flag: value}.
    score: the primary metric on the validation split, or None.
    curve: {epoch: score}.
    reason: why it failed, or "".
    facts: what the trial measured besides, such as "seconds" and "candidate".
  """

  number: int
  state: str
  values: dict[str, Any]
  score: float | None
  curve: dict[int, float]
  reason: str
  facts: dict[str, Any]


class Study:
  """One series of trials over one space.

  Attributes:
    name: of the study.
    workers: the `Workers`.
  """

  def __init__(self, root: pathlib.Path, name: str, workers: Workers, method: str, pruning: str, seed: int):
    """Opens the study in the journal of `root`, or creates it.

    Args:
      root: directory of the search.
      name: of the study.
      workers: the `Workers`.
      method: one of `METHODS`.
      pruning: one of `PRUNING`.
      seed: of the samplers.

    Raises:
      UserError: the journal is damaged.
    """
    self.name, self.workers = name, workers
    self._root, self._method, self._seed = root, method, seed
    journal = str(root / JOURNAL)
    try:
      self._storage = JournalStorage(JournalFileBackend(journal, _JournalLock(journal)))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError):
      # Optuna believes what it reads.
      raise UserError(f"{journal} is damaged: put back a copy of it, or delete the directory {root}") from None
    pruner = {
      "halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION),
      "median": optuna.pruners.MedianPruner(n_startup_trials=3),
      "none": optuna.pruners.NopPruner(),
    }[pruning]
    with locked(root):
      self._study = optuna.create_study(
        storage=self._storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
      )

  def rows(self) -> list[Row]:
    """Returns the trials, in the order of their numbers."""
    return [_row(trial) for trial in self._study.get_trials(deepcopy=False)]

  @property
  def measured(self) -> int:
    """Number of trials that have begun, without those that repeat the values of another one."""
    return sum(row.state != "waiting" and SAME_AS not in row.facts for row in self.rows())

  def best(self) -> Row | None:
    """Returns the trial with the highest score, and the first one of equal ones; None if none is complete."""
    complete = [row for row in self.rows() if row.state == "complete"]
    return max(complete, key=lambda row: row.score or 0.0) if complete else None

  def fact(self, name: str, make: Callable[[], Any]) -> Any:
    """Returns a JSON value that all processes of the search share: that of `make` where there is none yet."""
    with locked(self._root):
      found = self._study.user_attrs
      if name not in found:
        self._study.set_user_attr(name, make())
      return self._study.user_attrs[name]

  def has_fact(self, name: str) -> bool:
    """Returns whether there is a value of `fact` of this name."""
    return name in self._study.user_attrs

  def enqueue(self, name: str, combinations: list[dict[str, Any]]) -> None:
    """Adds trials with given values, once: a second call with the same name adds none."""
    with locked(self._root):
      if name not in self._study.user_attrs:
        there = [_fixed(trial) for trial in self._study.get_trials(deepcopy=False)]
        for values in combinations:
          if values not in there:
            self._study.enqueue_trial(values)
        self._study.set_user_attr(name, len(combinations))

  def ask(self, most: int, suggest: Callable[[Any], dict[str, Any]]) -> "Trial | None":
    """Returns a trial to run: one whose process has died, or a new one; None if there are `most` already.

    Args:
      most: largest number of trials of this study.
      suggest: function from an Optuna trial to {flag: value}.
    """
    with locked(self._root):
      trials = self._study.get_trials(deepcopy=False)
      self._study.sampler = self._sampler(len(trials))
      for trial in trials:
        if trial.state == TrialState.RUNNING and not self.workers.is_alive(trial.user_attrs.get(WORKER, "")):
          return self._claimed(self._begun(trial.number), suggest, taken_up=True)
      waiting = sum(trial.state == TrialState.WAITING for trial in trials)
      copies = sum(SAME_AS in trial.user_attrs.get(FACTS, {}) for trial in trials)
      # Trials with the values of another one cost nothing; in a small space there are soon no other values.
      is_full = len(trials) - waiting - copies >= most or copies >= MOST_COPIES + most
      if is_full or (self._method == "grid" and not waiting):
        return None
      return self._claimed(self._study.ask(), suggest)

  def are_others_running(self) -> bool:
    """Returns whether another process that is alive runs a trial."""
    with locked(self._root):
      return any(self._runs_elsewhere(trial) for trial in self._study.get_trials(deepcopy=False))

  def has_left_over(self) -> bool:
    """Returns whether a trial is unfinished, because its process has died or stopped."""
    with locked(self._root):
      trials = self._study.get_trials(deepcopy=False)
      return any(trial.state == TrialState.RUNNING and not self._runs_elsewhere(trial) for trial in trials)

  def importance(self) -> dict[str, float]:
    """Returns {flag: its share of the variance of the scores}; {} where the trials are too few or too equal to tell."""
    complete = [row for row in self.rows() if row.state == "complete"]
    if len(complete) < STARTUP_TRIALS or len({row.score for row in complete}) == 1:
      return {}
    names = {name for row in complete for name in row.values}
    try:
      found = optuna.importance.get_param_importances(
        self._study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
      )
    except (ValueError, RuntimeError):
      return {}
    return {name: share for name, share in found.items() if name in names}

  def _runs_elsewhere(self, trial):
    worker = trial.user_attrs.get(WORKER, "")
    return trial.state == TrialState.RUNNING and worker != self.workers.name and self.workers.is_alive(worker)

  def _begun(self, number):
    """Returns the trial that another process has begun."""
    study = self._storage.get_study_id_from_name(self.name)
    return optuna.trial.Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study, number))

  def _sampler(self, number):
    # The state of a sampler is not in the journal: its seed follows from the number of the trial.
    seed = self._seed * 100_003 + number
    if self._method == "tpe":
      return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    return optuna.samplers.RandomSampler(seed=seed)

  def _claimed(self, trial, suggest, taken_up=False):
    trial.set_user_attr(WORKER, self.workers.name)
    values = suggest(trial)
    done = [row for row in self.rows() if row.state == "complete" and row.values == values]
    return Trial(self._study, trial, self.name, values, taken_up, done[0] if done else None)


@dataclasses.dataclass(frozen=True)
class Trial:
  """A trial that this process runs.

  Attributes:
    name: of its study.
    values: {flag: value}.
    taken_up: whether another process has begun it.
    same_as: a finished trial with the same values, or None.
  """

  _study: Any
  _trial: Any
  study: str
  values: dict[str, Any]
  taken_up: bool
  same_as: Row | None

  @property
  def name(self) -> str:
    """Name of the trial in messages and directories, like "fine_tuning-3"."""
    return f"{self.study}-{self._trial.number}"

  def report(self, score: float, epoch: int) -> bool:
    """Notes the score after an epoch, from 1; returns whether the trial should end because others are better."""
    there = self._study.get_trials(deepcopy=False)[self._trial.number].intermediate_values
    if epoch not in there:
      self._trial.report(score, epoch)
    return self._trial.should_prune()

  def complete(self, score: float, facts: dict[str, Any]) -> None:
    """Ends the trial with its score."""
    self._trial.set_user_attr(FACTS, facts)
    self._study.tell(self._trial, score)

  def copy(self) -> None:
    """Ends the trial with the result of the trial with the same values."""
    assert self.same_as is not None
    self.complete(self.same_as.score or 0.0, self.same_as.facts | {"seconds": 0.0, SAME_AS: self.same_as.number})

  def prune(self, facts: dict[str, Any]) -> None:
    """Ends the trial early."""
    self._trial.set_user_attr(FACTS, facts)
    self._study.tell(self._trial, state=TrialState.PRUNED)

  def fail(self, reason: str, facts: dict[str, Any]) -> None:
    """Ends the trial as failed."""
    self._trial.set_user_attr(FACTS, facts)
    self._trial.set_user_attr(REASON, reason)
    self._study.tell(self._trial, state=TrialState.FAIL)

  def give_up(self) -> None:
    """Leaves the trial to the next process that asks."""
    self._trial.set_user_attr(WORKER, "")


@contextlib.contextmanager
def locked(root: pathlib.Path, name: str = LOCK) -> Iterator[None]:
  """Locks a file in the directory of a search while the block runs; waits for other processes."""
  with open(root / name, "a") as file:
    locks.acquire(file, wait=True)
    yield


def wait_until(is_over: Callable[[], bool], seconds: float = 0.5) -> None:
  """Waits until a condition holds, which is tested again and again."""
  while not is_over():
    time.sleep(seconds)


def _fixed(trial):
  """Returns the values of a trial, also of one that waits."""
  return trial.params or trial.system_attrs.get("fixed_params", {})


def _row(trial):
  state = "failed" if trial.state == TrialState.FAIL else str(trial.state.name).lower()
  score = trial.value if trial.state == TrialState.COMPLETE else None
  attributes = trial.user_attrs
  return Row(
    trial.number,
    state,
    dict(_fixed(trial)),
    score,
    dict(sorted(trial.intermediate_values.items())),
    attributes.get(REASON, ""),
    attributes.get(FACTS, {}),
  )
