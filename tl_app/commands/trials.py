"""Trains the trials of a search and measures them on the validation split. The test split is not there."""

import dataclasses
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
from tl_app.training import batch_size, phases, planning, selection
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
    score: what --select_metric compares, on the validation split.
    candidate: the candidate with that score.
  """

  score: float
  candidate: str


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

  def run(self, config: Config, paths: Workdir, on_epoch: Callable[[int, float], None]) -> Outcome:
    """Trains one trial.

    Args:
      config: the `Config` of the trial.
      paths: of its files.
      on_epoch: called after each epoch with the number of epochs in which the backbone has trained, 0 for a probe, and
        the primary metric on the validation split; may raise to end the trial.

    Raises:
      UserError: the flags cannot work together, or with these data or this backbone.
      RunFailed: a loss is not finite.
    """
    config_lib.validate(config)
    rules.check(rules.DATA, config, self.task)
    keras.utils.set_random_seed(config.seed)
    features = self._prepared(config)
    for variable, value in zip(features.model.network.variables, self._initial):
      variable.assign(value)
    planned = self._planned(config, features)
    if config.batch_size == AUTO:
      chosen = batch_size.choose(config, planned, features)
      planned, features = chosen.applied(planned), features.with_batch_size(chosen.inference)
    trained = {phase.name for phase in planned if phase.trains_backbone}
    epochs = iter(range(1, 1 + sum(phase.schedule.epochs for phase in planned)))

    def after_epoch(line):
      score = line.get(f"val_{self.metric}", float("nan"))
      on_epoch(next(epochs) if line["phase"] in trained else 0, score)

    candidates, _ = phases.train(planned, features, config, TrialRecord(paths, after_epoch))
    selected = selection.of_run(candidates, features, config)
    measured = selected.metrics[selected.best.name]
    # That of the worst group with --select_metric=worst_group.
    return Outcome(float(measured.get("worst_group", measured[self.metric])), selected.best.name)

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


def check_time(deadline: float) -> None:
  """Raises `OutOfTime` after a moment of `time.monotonic`; 0 is never."""
  if deadline and time.monotonic() > deadline:
    raise OutOfTime
