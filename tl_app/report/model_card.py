"""The model card: what a model is, how good it is, where it fails and where it comes from, in Markdown."""

from tl_app.report import first_screen, formatting, rendering
from tl_app.report.facts import RunFacts
from tl_app.report.sections import classes

# Classes of the table, those with the lowest F1.
_MOST_CLASSES = 20


def text(facts: RunFacts, candidate: str) -> str:
  """Returns the model card of a candidate of a run, with the sentences of the report's first screen.

  Args:
    facts: the `RunFacts`; the metrics are those of the candidate.
    candidate: its name.
  """
  metrics, test = facts.task.metrics, facts.test
  per_class = classes.by_f1(test)
  findings = facts.findings.get("findings", [])
  page = {
    "facts": facts,
    "candidate": candidate,
    "answers": first_screen.answers(facts),
    "metrics": [
      (title, formatting.with_interval(test, name, metrics.no_interval))
      for name, title in metrics.metric_titles.items()
      if formatting.decimals(test.get(name)) != formatting.MISSING
    ],
    "classes": per_class[:_MOST_CLASSES],
    "more_classes": max(len(per_class) - _MOST_CLASSES, 0),
    "splits": {name: sum(counts.values()) for name, counts in facts.splits.get("counts", {}).items()},
    "findings": [row for row in findings if row["severity"] != "info"],
    "downloads": facts.plan.get("downloads", []),
    "command": formatting.command("tl_app.train", formatting.given_flags(facts.config, but=("workdir",))),
    "packages": facts.metrics.get("environment", {}).get("packages", {}),
  }
  return rendering.environment().get_template("model_card.md").render(page)
