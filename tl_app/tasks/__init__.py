"""What the labels mean, and everything that follows from it: one `Task` for each --task."""

from collections.abc import Mapping
from typing import Any

from tl_app.config import Config, rules
from tl_app.config.groups import DataConfig
from tl_app.tasks import cells, label_problems, tags
from tl_app.tasks.multi_label import MULTI_LABEL
from tl_app.tasks.regression import REGRESSION
from tl_app.tasks.single_label import IMBALANCED, SINGLE_LABEL
from tl_app.tasks.task import Task
from tl_app.tasks.token_classification import TOKEN_CLASSIFICATION

TASKS = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL, REGRESSION, TOKEN_CLASSIFICATION)}
# Tasks that another metric decides with --imbalance.
_WITH_IMBALANCE = {IMBALANCED.name: IMBALANCED}
_BY_METRIC = {(task.name, task.metrics.primary_metric): task for task in (*TASKS.values(), IMBALANCED)}


def choose(config: Config, examples) -> tuple[Task, str]:
  """Returns (the `Task` of `examples`, not yet fitted; why it is that one).

  Raises:
    UserError: the labels, or another flag, do not fit --task.
  """
  rules.require(label_problems.find(config.data, examples.labels, examples.single_texts()))
  name, why = (config.task, "by --task") if config.task != "auto" else guess(config.data, set(examples.labels))
  task = TASKS[name] if config.imbalance == "none" else _WITH_IMBALANCE.get(name, TASKS[name])
  rules.check(rules.DATA, config, task)
  task = task.configure(config.data, examples.labels)
  task.check_inputs(examples)
  return task, why


def guess(config: DataConfig, labels: set[str]) -> tuple[str, str]:
  """Returns (name of the task, why) for the different label cells."""
  if config.label_columns:
    values = {value for label in labels for value in cells.listed(label) or [label]}
    if all(value.lower() in cells.FLAGS for value in values):
      return MULTI_LABEL.name, "every cell of --label_columns is 0 or 1"
    return REGRESSION.name, "--label_columns hold other values than 0 and 1"
  if tags.are_tags(labels):
    return TOKEN_CLASSIFICATION.name, "the labels are tags like B-NAME and O, one per word"
  if any(cells.listed(label) is not None for label in labels):
    return MULTI_LABEL.name, "the labels are lists"
  if cells.amounts(labels):
    return REGRESSION.name, f"the labels are numbers, not all whole, {len(labels):,} different ones"
  mark = config.label_separator or cells.separator(labels)
  if mark:
    several = sum(len(cells.split(label, mark)) > 1 for label in labels)
    classes = len({name for label in labels for name in cells.split(label, mark)})
    return (
      MULTI_LABEL.name,
      f"{several:,} of {len(labels):,} different labels join some of {classes:,} names by {mark!r}",
    )
  return SINGLE_LABEL.name, f"{len(labels):,} different labels, one per example{_note(labels)}"


def _note(labels):
  """Returns a note on labels that are read as one class but may be meant as several, or as amounts; or ""."""
  mark = cells.unsure_separator(labels)
  if mark:
    joined = next(label for label in sorted(labels) if len(cells.split(label, mark)) > 1)
    return f"; if {joined!r} is several classes, pass --label_separator={mark!r}"
  others = sorted(label for label in labels if cells.number(label) is None)
  if not others:
    return "; they are numbers: use --task=regression to predict them as amounts"
  if sum(cells.number(label.replace(",", ".")) is not None for label in others) == len(others):
    return "; they are numbers with a decimal comma: write a point if they are amounts"
  if len(labels) - len(others) > max(cells.MOST_CLASSES, len(others)):
    return (
      f"; {len(labels) - len(others):,} of them are numbers, the others not, e.g. {others[0]!r}: correct these if they "
      "are amounts"
    )
  return ""


def from_config(config: Mapping[str, Any]) -> Task:
  """Returns the `Task` of what `Task.get_config` returned, after JSON.

  Raises:
    KeyError, TypeError: the config is damaged.
  """
  fields: dict[str, Any] = {name: _as_tuples(value) for name, value in config.items()}
  name = fields.pop("name")
  # Exports of the first version have "score", or neither.
  metric = fields.pop("score", "")
  metric = fields.pop("primary_metric", metric)
  return _BY_METRIC.get((name, metric), TASKS[name]).with_codec(**fields)


def _as_tuples(value):
  return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def of_metrics(metrics: Mapping[str, Any]) -> Task:
  """Returns the `Task`, not fitted, that metrics.json is about, by its name and its primary metric."""
  name = metrics.get("task", SINGLE_LABEL.name)
  return _BY_METRIC.get((name, metrics.get("primary_metric", "")), TASKS[name])
