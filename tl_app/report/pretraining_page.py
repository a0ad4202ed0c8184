"""The report of a pretraining: one HTML page that needs no network, made from the files of the workdir."""

import pathlib
from collections.abc import Mapping

from tl_app import files
from tl_app.report import epoch_log, formatting, plots, rendering
from tl_app.report.facts import read_json
from tl_app.workdir import Workdir

_TEMPLATE = "pretraining.html"


def write(root: str | pathlib.Path, titles: Mapping[str, str]) -> pathlib.Path:
  """Writes report.html into a workdir and returns its path.

  Args:
    root: directory of the run.
    titles: {key of a held-out metric: title}, the loss first.
  """
  paths = Workdir(pathlib.Path(root))
  metrics, config = read_json(paths.metrics), read_json(paths.config)
  epochs = epoch_log.read(paths.log)
  second = "probe" if "probe" in metrics["before"] else [*titles, "loss"][1]
  titles = dict(titles) | ({"probe": f"probe {metrics['probe']['primary_metric']}"} if "probe" in metrics else {})
  content = {
    "config": config,
    "metrics": metrics,
    "titles": titles,
    "curves": plots.of_metrics(epochs, {"loss": titles["loss"], second: titles[second]}) if epochs else None,
    "plan": read_json(paths.plan),
    "corpus": read_json(paths.splits).get("corpus", {}),
    "command": formatting.command("tl_app.pretrain", formatting.given_flags(config)),
  }
  files.write_text(paths.report, rendering.environment().get_template(_TEMPLATE).render(content))
  return paths.report
