"""What the labels mean, and everything that follows from it: one class for each --task."""

from tl_app.config import refuse
from tl_app.errors import UserError
from tl_app.tasks import cells, tags
from tl_app.tasks.multi_label import MultiLabel
from tl_app.tasks.regression import Regression
from tl_app.tasks.single_label import RareClasses, SingleLabel
from tl_app.tasks.token_classification import TokenClassification

TASKS = {task.name: task for task in (SingleLabel, MultiLabel, Regression, TokenClassification)}
_BY_SCORE = {(task.name, task.score): task for task in (*TASKS.values(), RareClasses)}


def choose(config, examples):
  """Returns (the `Task` of `examples`, not yet fitted; why it is that one).

  Raises:
    UserError: the labels, or another flag, do not fit --task.
  """
  name, why = (config.task, "by --task") if config.task != "auto" else guess(config, set(examples.labels))
  task = TASKS[name].read(config, examples.labels)
  if config.probe_solver not in task.solvers:
    raise UserError(f"--probe_solver={config.probe_solver} does not fit --task={name}: use {', '.join(task.solvers)}")
  idle = [] if task.smooths else ["label_smoothing"]
  idle += [] if task.mixes else ["mixup", "cutmix"]
  idle += ["augment", "long_text"] if task.by_word else []
  idle += [] if hasattr(task, "separator") else ["label_separator"]
  refuse(config, idle, f"for --task={name}")
  if config.imbalance not in ("none", *task.imbalances):
    fitting = f"it takes {', '.join(task.imbalances)}" if task.imbalances else "leave it out"
    raise UserError(f"--imbalance={config.imbalance} does not fit --task={name}: {fitting}")
  return task.accept(examples), why


def guess(config, labels):
  """Returns (name of the task, why) for the different label cells, a set of str."""
  if config.label_columns:
    values = {value for label in labels for value in cells.listed(label) or [label]}
    if all(value.lower() in cells.FLAGS for value in values):
      return MultiLabel.name, "every cell of --label_columns is 0 or 1"
    return Regression.name, "--label_columns hold other values than 0 and 1"
  if tags.are_tags(labels):
    return TokenClassification.name, "the labels are tags like B-NAME and O, a tag a word"
  if any(cells.listed(label) is not None for label in labels):
    return MultiLabel.name, "the labels are lists"
  if cells.amounts(labels):
    return Regression.name, f"the labels are numbers, not all whole, {len(labels):,} different ones"
  mark = config.label_separator or cells.separator(labels)
  if mark:
    several = sum(len(cells.split(label, mark)) > 1 for label in labels)
    classes = len({name for label in labels for name in cells.split(label, mark)})
    return (
      MultiLabel.name,
      f"{several:,} of {len(labels):,} different labels join some of {classes:,} names by {mark!r}",
    )
  return SingleLabel.name, f"{len(labels):,} different labels, one an example{_about_numbers(labels)}"


def _about_numbers(labels):
  """Returns what to say of different labels, which are read as classes, where they may be meant as amounts; or ""."""
  others = sorted(label for label in labels if cells.number(label) is None)
  if not others:
    return "; they are numbers: --task=regression would take them as amounts"
  if sum(cells.number(label.replace(",", ".")) is not None for label in others) == len(others):
    return "; they are numbers with a decimal comma: write a point where they are amounts"
  if len(labels) - len(others) > max(cells.MOST_CLASSES, len(others)):
    return (
      f"; {len(labels) - len(others):,} of them are numbers, the others not, e.g. {others[0]!r}: correct these where "
      "they are amounts"
    )
  return ""


def restore(record):
  """Returns the `Task` of what `Task.record` gave, after JSON.

  Raises:
    KeyError, TypeError: it is damaged.
  """
  fields = {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
  return of({"task": fields.pop("name"), "score": fields.pop("score", None)})(**fields)


def of(metrics):
  """Returns the class of the task that metrics.json is about, by its name and the score that decided."""
  name = metrics.get("task", SingleLabel.name)
  return _BY_SCORE.get((name, metrics.get("score")), TASKS[name])
