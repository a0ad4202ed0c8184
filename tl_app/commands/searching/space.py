"""The space of a search: which flags are tried with which values. Reading it needs neither TensorFlow nor Optuna."""

import dataclasses
import itertools
import json
import math
import pathlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tl_app.config import AUTO, FIELDS, TYPES, Config
from tl_app.config.groups import (
  AugmentationConfig,
  BackboneConfig,
  HeadConfig,
  InputConfig,
  OptimisationConfig,
  RecipeConfig,
)
from tl_app.config.values import fault
from tl_app.errors import UserError, suggestion
from tl_app.recipes.phase import ADAMW

# Groups of the flags that can be searched, and the flags of these groups that cannot.
GROUPS = (BackboneConfig, InputConfig, RecipeConfig, HeadConfig, OptimisationConfig, AugmentationConfig)
FIXED = ("trust_backbone", "preprocessor", "select", "adapt", "unlabelled_dataset", "max_minutes")
# Flags of a probe that gradient descent alone reads.
NEED_GRADIENTS = ("head_learning_rate", "head_epochs", "head_hidden_units", "head_activation", "head_dropout")
# Values of a range in a grid, where its entry does not say how many.
GRID_POINTS = 4
# Combinations of a space that are counted.
FEW = 1000


@dataclasses.dataclass(frozen=True)
class Choice:
  """A flag with some values. Attributes: `values`, in the order of the file."""

  values: tuple

  def grid(self) -> list:
    """Returns the values of a grid."""
    return list(self.values)

  def suggest(self, trial: Any, name: str) -> Any:
    """Returns a value that the sampler of an Optuna trial chooses for the flag `name`."""
    return trial.suggest_categorical(name, list(self.values))

  def to_json(self) -> Any:
    """Returns the entry of a file of a space."""
    return list(self.values)


@dataclasses.dataclass(frozen=True)
class Range:
  """A flag with a range of numbers.

  Attributes:
    low, high: the ends, which are among the values; two int or two float.
    log: whether equal factors, and not equal differences, are equally likely.
    points: number of values in a grid.
  """

  low: float
  high: float
  log: bool = False
  points: int = GRID_POINTS

  def grid(self) -> list:
    """Returns the values of a grid, from `low` to `high`."""
    shares = [i / (self.points - 1) for i in range(self.points)]
    if self.log:
      values = [self.low * (self.high / self.low) ** share for share in shares]
    else:
      values = [self.low + (self.high - self.low) * share for share in shares]
    if isinstance(self.low, int):
      return list(dict.fromkeys(round(value) for value in values))
    return [float(f"{value:.6g}") for value in values]

  def suggest(self, trial: Any, name: str) -> Any:
    """Returns a value that the sampler of an Optuna trial chooses for the flag `name`."""
    if isinstance(self.low, int):
      return trial.suggest_int(name, self.low, self.high, log=self.log)
    return trial.suggest_float(name, self.low, self.high, log=self.log)

  def to_json(self) -> Any:
    """Returns the entry of a file of a space."""
    return dataclasses.asdict(self)


Space = dict[str, Choice | Range]


def read(path: str) -> Space:
  """Returns the space in a JSON, YAML or TOML file: {flag: [values]} or {flag: {"low", "high", "log", "points"}}.

  Raises:
    UserError: the file cannot be read, names an unknown flag, or has a value that the flag does not take.
  """
  what, file = f"--space={path}", pathlib.Path(path)
  try:
    values = _parsed(file)
  except OSError as error:
    raise UserError(f"{what} cannot be read: {error.strerror}") from None
  except ValueError as error:
    raise UserError(
      f"{what} is not {file.suffix.removeprefix('.') or 'JSON'}: {' '.join(str(error).split())}"
    ) from None
  return of(values, what)


def of(values: Any, what: str) -> Space:
  """Returns the space of a mapping as `read` finds it in a file.

  Args:
    values: {flag: values or range}.
    what: beginning of the messages.

  Raises:
    UserError: see `read`.
  """
  if not isinstance(values, Mapping) or not values:
    raise UserError(f'{what} needs flags with their values, like {{"learning_rate": [1e-5, 1e-4]}}')
  return {_flag(str(name), what): _entry(str(name), entry, what) for name, entry in values.items()}


def searchable() -> list[str]:
  """Returns the names of the flags that can be searched."""
  names = [field.name for group in GROUPS for field in dataclasses.fields(group)]
  return [name for name in names if name not in FIXED]


def concerns_features(name: str) -> bool:
  """Returns whether a flag changes what a head reads, or the head itself: a probe on cached features can judge it."""
  fields = {field.name for group in (BackboneConfig, InputConfig, HeadConfig) for field in dataclasses.fields(group)}
  return name in fields | {"probe_solver", "head_learning_rate", "head_epochs"}


def divided(space: Space, recipe: str) -> tuple[Space, Space]:
  """Returns (the flags that probes search, those that fine-tuning searches).

  Args:
    space: of the search.
    recipe: of --recipe; "probe" leaves nothing to fine-tuning.
  """
  if recipe == "probe":
    return space, {}
  probes = {name: entry for name, entry in space.items() if concerns_features(name)}
  return probes, {name: entry for name, entry in space.items() if name not in probes}


def sample(space: Space, trial: Any, config: Config) -> dict[str, Any]:
  """Returns {flag: value} that the sampler of an Optuna trial chooses; flags without effect are not among them."""
  chosen: dict[str, Any] = {}
  # The solver decides which of the others have an effect.
  for name in sorted(space, key=lambda name: name != "probe_solver"):
    if _has_effect(name, chosen, config):
      chosen[name] = space[name].suggest(trial, name)
  return chosen


def grid(space: Space, config: Config) -> list[dict[str, Any]]:
  """Returns all combinations of values, each once."""
  found = []
  for values in itertools.product(*(entry.grid() for entry in space.values())):
    combination = dict(zip(space, values))
    kept = {name: value for name, value in combination.items() if _has_effect(name, combination, config)}
    if kept not in found:
      found.append(kept)
  return found


def limited(most: int, space: Space, config: Config) -> int:
  """Returns the smaller one of `most` and the number of combinations, where a space has few."""
  if any(isinstance(entry, Range) for entry in space.values()):
    return most
  count = math.prod(len(entry.grid()) for entry in space.values())
  return min(most, len(grid(space, config))) if count <= FEW else most


def default_values(space: Space, config: Config, resolved: Mapping[str, Any]) -> dict[str, Any] | None:
  """Returns the values of a run without a search, or None if they are not in the space.

  Args:
    space: of the search.
    config: the `Config`.
    resolved: {flag: value} of flags whose default stands for a choice of the run, such as --learning_rate.
  """
  values = {name: resolved.get(name, getattr(config, name)) for name in space}
  values = {name: value for name, value in values.items() if _has_effect(name, values, config)}
  return values if all(_holds(space[name], value) for name, value in values.items()) else None


def of_probes(solvers: Sequence[str]) -> Space:
  """Returns the default space of probes: these solvers, and the learning rate if gradient descent is one of them."""
  rates: Space = {"head_learning_rate": Range(3e-4, 1e-2, log=True)} if ADAMW in solvers else {}
  return {"probe_solver": Choice(tuple(solvers)), **rates}


def of_fine_tuning(learning_rate: float, stages: int, smooths: bool, augmentations: Sequence[str]) -> Space:
  """Returns the default space of fine-tuning.

  Args:
    learning_rate: the default of the backbone.
    stages: number of stages of the backbone.
    smooths: whether the task has label smoothing.
    augmentations: values of --augment worth a trial; () for none.
  """
  space: Space = {
    "learning_rate": Range(learning_rate / 5, learning_rate * 5, log=True),
    "layer_decay": Choice((0.6, 0.75, 0.9, 1.0)),
    "weight_decay": Choice((0.0, 0.01, 0.1)),
    "train_stages": Choice((AUTO, *([f"top:{max(1, stages // 2)}"] if stages > 1 else []))),
  }
  if smooths:
    space["label_smoothing"] = Choice((0.0, 0.1))
  if augmentations:
    space["augment"] = Choice(("none", *augmentations))
  return space


def _has_effect(name, chosen, config):
  # With "auto" each of these flags asks for gradient descent.
  return name not in NEED_GRADIENTS or chosen.get("probe_solver", config.probe_solver) in (ADAMW, AUTO)


def _holds(entry, value):
  if isinstance(entry, Choice):
    return value in entry.values
  return isinstance(value, (int, float)) and entry.low <= value <= entry.high


def _parsed(file):
  data = file.read_bytes()
  if file.suffix == ".toml":
    return tomllib.loads(data.decode())
  if file.suffix in (".yaml", ".yml"):
    # It comes with Optuna.
    import yaml

    try:
      return yaml.safe_load(data)
    except yaml.YAMLError as error:
      raise ValueError(error) from None
  return json.loads(data)


def _flag(name, what):
  if name not in FIELDS:
    raise UserError(f"{what} names the unknown flag {name}{suggestion(name, searchable())}")
  if name not in searchable():
    raise UserError(f"{what}: --{name} cannot be searched; give it on the command line")
  return name


def _entry(name, entry, what):
  if isinstance(entry, Mapping):
    return _range(name, entry, what)
  values = entry if isinstance(entry, list) else [entry]
  values = list(dict.fromkeys(_value(name, value, what) for value in values))
  if not values:
    raise UserError(f"{what}: {name} has no values")
  return Choice(tuple(values))


def _range(name, entry, what):
  known = {field.name for field in dataclasses.fields(Range)}
  odd = next((key for key in entry if key not in known), None)
  if odd is not None:
    raise UserError(f"{what}: the range of {name} has an unknown key {odd}{suggestion(str(odd), known)}")
  if TYPES[name] not in (int, float) or not {"low", "high"} <= set(entry):
    raise UserError(f"{what}: {name} needs a list of values, or for a number low and high")
  low, high = (_value(name, entry[end], what) for end in ("low", "high"))
  log, points = entry.get("log", False), entry.get("points", GRID_POINTS)
  if isinstance(low, str) or isinstance(high, str) or not low < high or (log and low <= 0):
    raise UserError(f"{what}: the range of {name} needs low < high{', and low above 0 for log' if log else ''}")
  if not isinstance(log, bool):
    raise UserError(f"{what}: log of the range of {name} is {log!r}: it is true or false")
  if not isinstance(points, int) or points < 2:
    raise UserError(f"{what}: the range of {name} needs 2 or more points")
  return Range(low, high, log, points)


def _value(name, value, what):
  if TYPES[name] is float and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  if isinstance(value, float) and not math.isfinite(value):
    raise UserError(f"{what}: {name} has a value that is not a number")
  problem = fault(name, value)
  if problem:
    choices = FIELDS[name].metadata["choices"] or ()
    raise UserError(f"{what}: {problem}{suggestion(str(value), choices)}")
  return value


def changed(config: Config, *values: Mapping[str, Any]) -> Config:
  """Returns the config with the values of a trial."""
  merged = {name: value for part in values for name, value in part.items()}
  return dataclasses.replace(config, **merged)


def listed(values: Mapping[str, Any], names: Iterable[str] = ()) -> str:
  """Returns values of a trial as words: "learning_rate 3e-05, layer_decay 0.9"."""
  shown = {name: values[name] for name in names or values}
  return ", ".join(
    f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()
  )
