"""Searches flags of a run: trials of probes on cached features, then of fine-tuning, then one run of the best flags."""

import contextlib
import dataclasses
import gc
import logging
import pathlib
import sys
import time
import typing

from tl_app import config as config_lib
from tl_app import files
from tl_app import workdir as workdir_lib
from tl_app.commands import train, training_process
from tl_app.commands.cli import machine_error
from tl_app.commands.searching import space as space_lib
from tl_app.commands.searching import study as study_lib
from tl_app.commands.searching.directory import open_search
from tl_app.commands.searching.space import Space
from tl_app.commands.searching.study import Study, Workers
from tl_app.commands.trials import Bench, Outcome, OutOfTime, Pruned, check_time
from tl_app.config import Config
from tl_app.errors import RunFailed, UserError
from tl_app.recipes.phase import ADAMW
from tl_app.report import formatting, tuning_page
from tl_app.terminal import progress
from tl_app.workdir import Workdir

log = logging.getLogger(__name__)

RESULT = "tuning.json"
PROBES, FINE_TUNING = "probe", "fine_tuning"
# Trials where neither --trials nor --minutes says how many.
DEFAULT_TRIALS = 20
# Where fine-tuning follows, the largest number of trials of probes, and their largest share of the trials and minutes.
MOST_PROBES, PROBE_SHARE = 12, 0.4


@dataclasses.dataclass(frozen=True)
class Options:
  """How a search runs.

  Attributes:
    trials: largest number of trials; 0 for `DEFAULT_TRIALS`, or for any number where `minutes` limits them.
    minutes: time for the trials of this command; 0 for no limit.
    space: the `Space`, or None for the default one.
    method: one of `study.METHODS`.
    pruning: one of `study.PRUNING`.
    processes: number of processes on this machine.
    command: flags of the command that starts another process of this search.
  """

  trials: int = 0
  minutes: float = 0.0
  space: Space | None = None
  method: str = "tpe"
  pruning: str = "halving"
  processes: int = 1
  command: tuple[str, ...] = ()

  @property
  def most(self) -> int:
    """Largest number of trials of all studies."""
    return self.trials or (sys.maxsize if self.minutes else DEFAULT_TRIALS)


def tune(config: Config, options: Options) -> dict | None:
  """Runs the trials of a search that are not done, then trains the best flags, evaluates and exports that model.

  Several processes may call it with the same workdir at the same time, and a later call continues: the trials are in
  one journal. Trials are measured on the validation split; the test split is read by the last run alone.

  Args:
    config: the `Config`; the search changes some of its flags.
    options: the `Options`.

  Returns:
    The content of tuning.json; None if other processes still run trials, the last of which trains the best flags.

  Raises:
    UserError: a flag cannot work, the workdir holds another search, or the time is too short for one trial.
    RunFailed: all trials failed.
  """
  start, root = time.monotonic(), pathlib.Path(config.workdir)
  given = {"method": options.method, "pruning": options.pruning, "space": options.space and _entries(options.space)}
  open_search(root, config, given)
  workers = Workers(root)
  search = _Search(config, options, root, workers, start)
  with _processes(options, root) as others, contextlib.closing(workers):
    with progress.quiet("tl_app.training"), progress.quiet("tl_app.model"):
      search.run()
    for number, process in enumerate(others, start=1):
      if code := process.wait():
        log.warning("process %d failed: %s", number, training_process.failure(code, _output(root, number)))
    return search.finish()


class _Search:
  """The state of one process of a search."""

  def __init__(self, config, options, root, workers, start):
    self.config, self.options, self.root, self.start = config, options, root, start
    arguments = options.method, options.pruning, config.seed
    self.probes = Study(root, PROBES, workers, *arguments)
    self.fine_tuning = Study(root, FINE_TUNING, workers, *arguments)
    self.studies = {PROBES: self.probes, FINE_TUNING: self.fine_tuning}
    # The data are read where trials run.
    self.bench: typing.Any = None
    self.metrics: typing.Any = None
    self.folds = 0

  def run(self):
    """Runs trials until none is left or the time is over."""
    bench = self.bench = Bench(self.config)
    self.metrics = bench.task.metrics
    # All trials, and the last run, read the same features.
    chosen = self.probes.fact("feature_choices", lambda: bench.feature_choices(self.config))
    self.config = dataclasses.replace(self.config, **chosen)
    self.folds = self._folds()
    probes, fine_tuning = self._spaces(bench)
    both = bool(probes and fine_tuning)
    # The flags of the best probe stay once fine-tuning has begun with them.
    most = min(MOST_PROBES, round(PROBE_SHARE * self.options.most)) if both else self.options.most
    if probes and most and not self.fine_tuning.has_fact("base"):
      base = dataclasses.replace(self.config, recipe="probe")
      self._run_all(self.probes, probes, base, most, self._deadline(PROBE_SHARE if both else 1.0))
      study_lib.wait_until(lambda: not self.probes.are_others_running())
    if fine_tuning:
      best = self.probes.best()
      values = self.fine_tuning.fact("base", lambda: best.values if best else {})
      base = space_lib.changed(self.config, values)
      most = max(1, self.options.most - self.probes.measured)
      self._run_all(self.fine_tuning, fine_tuning, base, most, self._deadline())

  def finish(self):
    """Trains the best flags, unless that is done or other processes run trials; returns the content of tuning.json."""
    with study_lib.locked(self.root, "winner.lock"):
      if any(study.are_others_running() for study in self.studies.values()):
        log.info("other processes still run trials: the last one trains the best flags")
        return None
      study, row = self._best()
      # The memory of its network is needed for the next one.
      self.bench = None
      gc.collect()
      config = space_lib.changed(self.config, self._base(study), row.values)
      directory = self.root / f"winner-{study.name}-{row.number}"
      config = dataclasses.replace(config, workdir=str(directory))
      log.info(
        "best trial: %s-%d, %s %.4f %s: %s",
        *(study.name, row.number, self._title, row.score, formatting.measured(row.facts), _words(row.values)),
      )
      metrics = _finished(config) or train.train_and_evaluate(config, directory)
      return self._write(study, row, config, metrics)

  @property
  def _title(self):
    title = self.metrics.primary_title
    return f"{title} of the worst group" if self.config.select_metric == "worst_group" else title

  def _folds(self):
    """Returns the number of folds by which trials are measured, 0 for the validation split; one for all processes."""

    def decide():
      if any(study.rows() for study in self.studies.values()):
        # Trials of a version that had no folds.
        return {"folds": 0, "reason": "the trials that are done were measured there"}
      probe = dataclasses.replace(self.config, recipe="probe")
      return self.bench.folds(probe, Workdir(self.root / "trials" / "folds"))

    found = self.probes.fact("folds", decide)
    log.info("trials are measured %s: %s", formatting.measured(found), found["reason"])
    return found["folds"]

  def _spaces(self, bench):
    """Returns the `Space` of probes and that of fine-tuning; the first process decides for all."""
    given = self.options.space
    if given is not None:
      return space_lib.divided(given, "probe" if self.config.probe_alone else self.config.recipe)

    def default():
      solvers = bench.task.probe_solvers
      # A training cannot cross-validate gradient descent, so it would not use the validation examples.
      probes = space_lib.of_probes([solver for solver in solvers if solver != ADAMW] if self.folds else solvers)
      rate = bench.default_values(self.config).get("learning_rate")
      if not rate:
        # No phase trains the backbone.
        return {PROBES: _entries(probes), FINE_TUNING: {}}
      stages = bench.num_stages(self.config)
      augmentations = bench.modality.augmentations
      tuned = space_lib.of_fine_tuning(rate, stages, bench.task.supports_label_smoothing, augmentations)
      return {PROBES: _entries(probes), FINE_TUNING: _entries(tuned)}

    found = self.probes.fact("space", default)
    return tuple(space_lib.of(found[name], "the space") if found[name] else {} for name in (PROBES, FINE_TUNING))

  def _deadline(self, share=1.0):
    return self.start + 60 * self.options.minutes * share if self.options.minutes else 0.0

  def _base(self, study):
    if study is self.probes:
      return {"recipe": "probe"}
    return self.fine_tuning.fact("base", dict)

  def _run_all(self, study, space, base, most, deadline):
    """Runs trials of a study until there are `most`, the time is over, or none can be better."""
    if self._is_perfect():
      return
    self._enqueue(study, space, base, most)
    most = space_lib.limited(most, space, base)
    while not deadline or time.monotonic() < deadline:
      trial = study.ask(most, lambda trial: space_lib.sample(space, trial, base))
      if trial is None:
        break
      if not self._run(study, trial, base, deadline):
        break
      if self._is_perfect():
        log.info(
          "the best trial answers all examples right %s: no trial can be better, and the search ends; more examples "
          "can show differences",
          formatting.measured(self._best()[1].facts),
        )
        break

  def _is_perfect(self):
    """Returns whether no trial can be better than the best one. A grid is asked for as a whole."""
    if self.options.method == "grid" or not self.metrics.counts_right_answers:
      return False
    return any(row and row.score >= 1 for row in (study.best() for study in self.studies.values()))

  def _enqueue(self, study, space, base, most):
    """Adds the trials that are not drawn: the grid, or the flags of a run without a search."""
    if self.options.method != "grid":
      values = space_lib.default_values(space, base, self.bench.default_values(base))
      return study.enqueue("defaults", [values] if values is not None else [])
    combinations = space_lib.grid(space, base)
    if len(combinations) > most:
      raise UserError(
        f"the grid of {study.name} has {len(combinations)} combinations, and there are {most} trials for them: raise "
        "--trials, make the space smaller, or use --method=random"
      )
    return study.enqueue("grid", combinations)

  def _run(self, study, trial, base, deadline) -> bool:
    """Runs one trial; returns whether there is time for another one."""
    config = dataclasses.replace(space_lib.changed(base, trial.values), workdir=str(self.root / "trials" / trial.name))
    start, last = time.monotonic(), [float("nan")]

    def facts(**more):
      return {"seconds": round(time.monotonic() - start, 2), **more}

    def on_epoch(epoch, score):
      check_time(deadline)
      if epoch and score == score:
        last[0] = score
        if trial.report(score, epoch):
          raise Pruned

    if trial.same_as:
      trial.copy()
      log.info("%s: the same values as trial %d", trial.name, trial.same_as.number)
      return True
    again = " (taken up again)" if trial.taken_up else ""
    try:
      outcome = self.bench.run(config, Workdir(pathlib.Path(config.workdir)), on_epoch, self.folds)
      trial.complete(outcome.score, facts(candidate=outcome.candidate, **outcome.estimate))
      self._report(trial, outcome, facts()["seconds"], again)
    except Pruned:
      trial.prune(facts())
      log.info("%s%s: stopped at %.4f: %s", trial.name, again, last[0], _words(trial.values))
    except OutOfTime:
      trial.give_up()
      return False
    except (UserError, RunFailed) as error:
      trial.fail(" ".join(str(error).split()), facts())
      log.warning("%s%s failed: %s", trial.name, again, error)
    except Exception as error:
      reason = machine_error(error) or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
      trial.fail(reason, facts())
      log.warning("%s%s failed: %s", trial.name, again, reason)
    return True

  def _report(self, trial, outcome: Outcome, seconds, again):
    study, best = self._best()
    log.info(
      "%s%s: %s %.4f %s (%s), %s, with %s; the best is %.4f of %s",
      *(trial.name, again, self._title, outcome.score, formatting.measured(outcome.estimate)),
      formatting.candidate(outcome.candidate),
      *(formatting.duration(seconds), _words(trial.values), best.score, f"{study.name}-{best.number}"),
    )

  def _best(self):
    """Returns (study, row) of the best trial.

    Raises:
      UserError, RunFailed: there is none.
    """
    found = [(study, study.best()) for study in self.studies.values()]
    found = [(study, row) for study, row in found if row]
    if found:
      return max(found, key=lambda pair: pair[1].score)
    failed = [row for study in self.studies.values() for row in study.rows() if row.state == "failed"]
    if failed:
      raise RunFailed(f"all trials failed ({len(failed)}); the first: {failed[0].reason}")
    raise UserError(
      f"--minutes={self.options.minutes:g} is over and no trial is finished: raise it; the same command continues"
    )

  def _write(self, study, row, config, metrics):
    """Writes tuning.json and the report; returns the content of tuning.json."""
    key, title = self.metrics.primary_metric, self.metrics.primary_title
    trials = [
      {"study": name, **dataclasses.asdict(trial)} for name, each in self.studies.items() for trial in each.rows()
    ]
    command = formatting.command(
      "tl_app.train", formatting.given_flags(dataclasses.asdict(config), ("trust_backbone",))
    )
    result = {
      "format": workdir_lib.FORMAT,
      "dataset": config.dataset,
      "backbone": config.backbone,
      "method": self.options.method,
      "pruning": self.options.pruning,
      "metric": key,
      "metric_title": title,
      "score_title": self._title,
      "winner": {
        "trial": f"{study.name}-{row.number}",
        "values": self._base(study) | row.values,
        "validation": row.score,
        "measured": formatting.measured(row.facts),
        "workdir": str(pathlib.Path(config.workdir).name),
        "command": command,
        "test": {name: metrics["test"].get(name) for name in (key, f"{key}_ci95", "num_examples")},
        "selected": metrics["selected_candidate"],
      },
      "importance": {name: each.importance() for name, each in self.studies.items()},
      "trials": trials,
    }
    files.write_json(self.root / RESULT, result)
    tuning_page.write(self.root / "report.html", result)
    return result


def _entries(space):
  return {name: entry.to_json() for name, entry in space.items()}


def _words(values):
  return space_lib.listed(values) or "no flags"


def _finished(config):
  """Returns the metrics of the run of a config, or None if it is not finished."""
  paths = Workdir(pathlib.Path(config.workdir))
  try:
    _, there = workdir_lib.open_run(config.workdir)
    return None if config_lib.differing(there, config) else workdir_lib.read(paths.metrics)
  except UserError:
    return None


@contextlib.contextmanager
def _processes(options, root):
  """Starts the other processes of a search and ends them with the block."""
  started = []
  with training_process.ending(started):
    for number in range(1, options.processes):
      # The last value of a flag holds.
      flags = [*options.command, "--processes=1"]
      started.append(training_process.start("tl_app.tune", flags, _output(root, number)))
    yield started


def _output(root, number):
  return root / f"process-{number}.log"
