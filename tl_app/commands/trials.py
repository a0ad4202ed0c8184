"""Trains the trials of a search and measures them, without the test split.

They are measured on the validation split, or where a training would not trust it, on the held-out examples of folds.
Each fold is a training of its own, with early stopping on the examples that it holds out.
"""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable

import keras
import numpy as np

from tl_app import backbones
from tl_app import config as config_lib
from tl_app.assets import Assets
from tl_app.backbones.weights import values
from tl_app.commands import diagnosis, feature_choices, loading
from tl_app.compute import devices as devices_lib
from tl_app.config import AUTO, Config, rules
from tl_app.config.groups import OptimisationConfig, RecipeConfig
from tl_app.data import modalities
from tl_app.features.frozen import Features
from tl_app.recipes import recipes
from tl_app.recipes.phase import HEAD
from tl_app.training import batch_size, compiling, cross_validation, phases, planning, refit, selection
from tl_app.workdir import Record, Workdir

# Flags that change neither the network nor its inputs: what was prepared for one value serves the others.
SHARED = {field.name for group in (RecipeConfig, OptimisationConfig) for field in dataclasses.fields(group)}
SHARED |= {"workdir", "mixup", "cutmix", "label_smoothing", "imbalance"}


class Pruned(Exception):
  """A trial ends because others are better after as many epochs."""


class OutOfTime(Exception):
  """The time of the search is over."""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a trial has measured.

  Attributes:
    score: what --select_metric compares.
    candidate: the candidate with that score.
    estimate: where the score comes from, see `Candidate.estimate`.
  """

  score: float
  candidate: str
  estimate: dict


class TrialRecord(Record):
  """Writes the epochs of a trial into its directory, and tells the search about each."""

  def __init__(self, paths: Workdir, on_epoch: Callable[[dict], None]):
    """Creates the record; `on_epoch` gets the values of a line of log.jsonl, and may raise to end the trial."""
    super().__init__(paths)
    paths.root.mkdir(parents=True, exist_ok=True)
    paths.log.unlink(missing_ok=True)
    self._on_epoch = on_epoch

  def log_epoch(self, values: dict) -> None:
    """Appends a line to log.jsonl."""
    super().log_epoch(values)
    self._on_epoch(values)


class Bench:
  """The data and the network of the trials of one process, which are loaded again only for a flag that changes them.

  Attributes:
    task: the fitted `Task`.
  """

  def __init__(self, config: Config):
    """Reads the data and forgets the test split.

    Args:
      config: the `Config` of the search.
    """
    self._assets = Assets.of(config)
    self._devices = devices_lib.make(config.strategy, config.num_devices, config.deterministic)
    split, self.task, reason = loading.examples(config, self._assets)
    loading.announce(config, split, self.task, reason)
    diagnosis.check_groups(config, split)
    self._split = split.without_test()
    self._key: tuple = ()
    self._features: Features | None = None
    self._initial: list[np.ndarray] = []

  @property
  def metric(self) -> str:
    """Key of the primary metric."""
    return self.task.metrics.primary_metric

  @property
  def modality(self) -> modalities.Modality:
    """The `Modality` of the data."""
    return modalities.of(self._split.examples.modality)

  def feature_choices(self, config: Config) -> dict[str, str]:
    """Returns {flag: value} of what --pooling=auto and --pair_encoding=auto choose."""
    spec = loading.with_vocabulary(config, backbones.resolve(config.backbone), self._split)
    record = Record(Workdir(pathlib.Path(config.workdir)))
    decided = feature_choices.decided(config, spec, self._split, self.task, self._devices, record)
    return {name: getattr(decided, name) for name in ("pooling", "pair_encoding")}

  def num_stages(self, config: Config) -> int:
    """Returns the number of stages of the backbone."""
    return len(self._prepared(config).model.backbone.stages)

  def default_values(self, config: Config) -> dict[str, float | str]:
    """Returns {flag: value} of the learning rates and the solver that a run of `config` chooses itself."""
    planned = self._planned(config, self._prepared(config))
    rates = {"head_learning_rate": planned[0].optimizer.learning_rates[HEAD]}
    tuned = [phase for phase in planned if phase.trains_backbone]
    if tuned:
      rates["learning_rate"] = max(tuned[-1].optimizer.learning_rates.values())
    shown = {name: float(f"{rate:.6g}") for name, rate in rates.items()}
    return {**shown, "probe_solver": planned[0].optimizer.solver}

  def folds(self, config: Config, paths: Workdir) -> dict:
    """Returns {"folds", "reason"} of trials: the folds of the probe of a training, 0 for the validation split.

    Args:
      config: the `Config` of a training without a search.
      paths: of the files of a trial.
    """
    if self.task.per_token:
      return {"folds": 0, "reason": f"--task={self.task.name} answers each word"}
    features = self._prepared(config)
    self._reset(features)
    probe = self._planned(config, features)[:1]
    _, (fitted,) = phases.train(probe, features, config, TrialRecord(paths, lambda line: None))
    compiling.release(features.model)
    if fitted.refit is None:
      return {"folds": 0, "reason": f"--probe_solver={probe[0].optimizer.solver} is not cross-validated"}
    return {"folds": fitted.refit.folds, "reason": fitted.refit.reason}

  def run(self, config: Config, paths: Workdir, on_epoch: Callable[[int, float], None], folds: int = 0) -> Outcome:
    """Trains one trial.

    Args:
      config: the `Config` of the trial.
      paths: of its files.
      on_epoch: called after each epoch with the number of epochs in which the backbone has trained, 0 for a probe and
        for all folds but the first, and the primary metric on the examples that select; may raise to end the trial.
      folds: number of folds there are, 0 for the validation split. Fine-tuning runs as many as answer for enough
        examples, see `cross_validation.enough_folds`.

    Raises:
      UserError: the flags cannot work together, or with these data or this backbone.
      RunFailed: a loss is not finite.
    """
    config_lib.validate(config)
    rules.check(rules.DATA, config, self.task)
    keras.utils.set_random_seed(config.seed)
    features = self._prepared(config)
    self._reset(features)
    planned = self._planned(config, features)
    chosen = batch_size.choose(config, planned, features)
    planned = chosen.applied(planned)
    if config.batch_size == AUTO:
      features = features.with_batch_size(chosen.inference)
    trained = {phase.name for phase in planned if phase.trains_backbone}
    epochs, found = itertools.count(1), []

    def after_epoch(line):
      score = line.get(f"val_{self.metric}", float("nan"))
      # Trials are compared by the same examples: those of the first fold.
      on_epoch(next(epochs) if line["phase"] in trained and not found else 0, score)

    record = TrialRecord(paths, after_epoch)
    if folds:
      plan = planning.for_other_data(config, planned, chosen, features, recipes.plan)
      # A fold does not decide whether fine-tuning can win: all of them do.
      settings = dataclasses.replace(config, refit="never", select="fine_tuned")
      rows = _rows(features, folds, bool(trained))
      for part in (features.with_parts(*fold) for fold in rows):
        self._reset(features)
        found.append(phases.train(plan(part.data), part, settings, record)[0])
      candidates = _pooled(found, rows)
    else:
      candidates, _ = phases.train(planned, features, config, record)
    compiling.release(features.model)
    selected = selection.of_run(candidates, features, config)
    measured = selected.metrics[selected.best.name]
    # That of the worst group with --select_metric=worst_group.
    score = float(measured.get("worst_group", measured[self.metric]))
    return Outcome(score, selected.best.name, selected.best.estimate)

  def _reset(self, features):
    for variable, value in zip(features.model.network.variables, self._initial):
      variable.assign(value)

  def _planned(self, config, features):
    return planning.plan_phases(config, features.data, features.model, self._devices, recipes.plan)

  def _prepared(self, config) -> Features:
    """Returns the `Features` for the flags that change the network or its inputs."""
    key = tuple(getattr(config, name) for name in config_lib.FIELDS if name not in SHARED)
    key += (config.recipe in recipes.L2_NORMALIZED,)
    if key != self._key or self._features is None:
      self._features = None
      self._features, self._key = self._loaded(config), key
      self._initial = values(self._features.model.network.variables)
    return self._features

  def _loaded(self, config):
    spec = loading.with_vocabulary(config, backbones.resolve(config.backbone), self._split)
    return loading.without_run(config, spec, self._split, self.task, self._assets, self._devices)


def _rows(features, folds, is_trained):
  """Returns `refit.fold_rows` of the folds that a trial runs: of a probe, which costs little, all."""
  rows = refit.fold_rows(features)
  return rows[: cross_validation.enough_folds(folds, len(rows[0][1]))] if is_trained else rows


def _pooled(found, rows):
  """Returns the candidates that all folds have, without values, with their answers for the held-out examples together.

  Args:
    found: the candidates of each fold.
    rows: what `refit.fold_rows` returns for these folds.
  """
  held = np.concatenate([held_out for _, held_out in rows])
  estimate = {"estimate": "cross_validation", "folds": len(found)}
  by_name = [{candidate.name: candidate for candidate in candidates} for candidates in found]
  shared = [name for name in by_name[0] if all(name in fold for fold in by_name)]
  pooled = {name: np.concatenate([fold[name].logits for fold in by_name]) for name in shared}
  return [
    dataclasses.replace(by_name[0][name], logits=logits, values=[], rows=held, estimate=estimate)
    for name, logits in pooled.items()
  ]


def check_time(deadline: float) -> None:
  """Raises `OutOfTime` after a moment of `time.monotonic`; 0 is never."""
  if deadline and time.monotonic() > deadline:
    raise OutOfTime
