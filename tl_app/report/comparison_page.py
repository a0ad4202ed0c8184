"""The comparison of finished runs as one HTML page that loads nothing."""

from collections.abc import Mapping

from tl_app import tasks
from tl_app.data import modalities
from tl_app.report import formatting, predictions, rendering

# Column of paths of images, and name of their modality.
IMAGE = "image"


def html(result: Mapping) -> str:
  """Returns the page.

  Args:
    result: the content of comparison.json.
  """
  metrics = tasks.of_metrics(result).metrics
  template = rendering.environment().get_template("comparison.html")
  pairs = [dict(pair) | {"groups": _groups(pair["examples"])} for pair in result["pairs"]]
  names = {"primary": metrics.primary_metric, "title": metrics.primary_title, "no_interval": metrics.no_interval}
  return template.render(dict(result) | {"pairs": pairs} | names)


def _groups(examples):
  """Returns the changed examples as tables, the broken ones first; a cell in which the runs differ has both values."""
  groups = []
  for change, title in (("broken", "Answered worse"), ("fixed", "Answered better")):
    found = [example for example in examples if example["change"] == change]
    if found:
      inputs = [name for name in predictions.INPUTS if name in found[0]]
      columns = [name for name in found[0] if name not in ("change", *inputs) and not name.startswith("next_")]
      rows = [{name: _cell(row[name]) for name in columns} | _previews(row, inputs) for row in found]
      groups.append({"title": title, "columns": columns, "inputs": inputs, "rows": rows})
  return groups


def _previews(example, inputs):
  """Returns {name: preview} of inputs, as of `previews.of`; of an image that cannot be read, its path as a text."""
  found, images = {name: {"text": example[name]} for name in inputs}, modalities.of(IMAGE)
  if IMAGE in inputs and not images.encode(example[IMAGE])[1]:
    found[IMAGE] = images.preview((example[IMAGE],))
  return found


def _cell(value):
  values = value if isinstance(value, list) else [value]
  return " → ".join(map(formatting.short, values))
