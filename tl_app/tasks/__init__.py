"""What the labels mean, and everything that follows from it: one class for each --task."""

from tl_app.tasks.single_label import SingleLabel

TASKS = {task.name: task for task in (SingleLabel,)}


def choose(config, examples):
  """Returns (the `Task` of `examples`, why it is that one)."""
  return SingleLabel(), ""


def restore(record):
  """Returns the `Task` of what `Task.record` gave, after JSON.

  Raises:
    KeyError, TypeError: it is damaged.
  """
  fields = {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
  return TASKS[fields.pop("name")](**fields)


def of(metrics):
  """Returns the class of the task that metrics.json is about."""
  return TASKS[metrics.get("task", SingleLabel.name)]
