"""The report of a run: one HTML page that needs no network, made from the files of the workdir."""

import pathlib

import markupsafe

from tl_app import files
from tl_app.data.examples import Examples
from tl_app.report import facts as facts_lib
from tl_app.report import first_screen, rendering
from tl_app.report.sections import SECTIONS


def write(root: str | pathlib.Path, examples: Examples | None = None) -> pathlib.Path:
  """Writes report.html into a workdir and returns its path.

  Reads the files of `RunFacts`, of which only metrics.json is needed; the page has no section for a file that is
  absent. The page loads nothing: styles, pictures and plots are inside. Its one script, which the page names by its
  hash, sorts and filters tables; nothing needs it.

  Args:
    root: directory of the run.
    examples: `Examples` with the test split; the page then shows their texts or images.

  Raises:
    UserError: metrics.json is absent, or one of the files cannot be read.
  """
  facts = facts_lib.read(root, examples)
  environment = rendering.environment()
  common = _common(facts)
  shown = []
  for section in SECTIONS:
    context = section.context(facts)
    if context is not None:
      html = environment.get_template(f"sections/{section.name}.html").render(common | context)
      shown.append({"name": section.name, "title": section.title, "html": markupsafe.Markup(html)})
  script = rendering.script()
  page = common | {"script": markupsafe.Markup(script), "script_hash": rendering.digest(script)}
  page |= {"sections": shown, "answers": first_screen.answers(facts)}
  files.write_text(facts.paths.report, environment.get_template("report.html").render(page))
  return facts.paths.report


def _common(facts):
  """Returns the variables that every template has."""
  metrics = facts.task.metrics
  return {
    "facts": facts,
    "task": facts.task,
    "metrics": facts.metrics,
    "test": facts.test,
    "primary": metrics.primary_metric,
    "title": metrics.primary_title,
    "baseline": metrics.baseline_score(facts.metrics),
  }
