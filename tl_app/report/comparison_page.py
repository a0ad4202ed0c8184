"""The comparison of finished runs as one HTML page that loads nothing."""

from collections.abc import Mapping

from tl_app import tasks
from tl_app.report import predictions, rendering


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
  """Returns the changed examples as tables: broken ones, then fixed ones; each row a list of cells."""
  groups = []
  for change, title in (("broken", "Answered worse"), ("fixed", "Answered better")):
    rows = [example for example in examples if example["change"] == change]
    if rows:
      columns = [name for name in rows[0] if name not in ("change", *predictions.INPUTS)]
      inputs = [name for name in predictions.INPUTS if name in rows[0]]
      groups.append({"title": title, "columns": columns, "inputs": inputs, "rows": rows})
  return groups
