"""The report of a search: one HTML page that needs no network, and the lines for the terminal."""

import pathlib
from collections.abc import Mapping

from tl_app import files
from tl_app.report import formatting, rendering, tuning_plots

_TEMPLATE = "tuning.html"
# Column in which the values of `lines` begin.
INDENT = 18
_HIGHEST = "the highest of all trials: likely too high"
# Names of the studies as people read them.
TITLES = {"probe": "Probes on frozen features", "fine_tuning": "Fine-tuning"}


def write(path: pathlib.Path, result: Mapping) -> pathlib.Path:
  """Writes the page and returns its path.

  Args:
    path: of the page.
    result: the content of tuning.json.
  """
  studies = []
  for name, title in TITLES.items():
    trials = [trial for trial in result["trials"] if trial["study"] == name]
    if trials:
      studies.append(_study(name, title, trials, result))
  content = {"result": result, "studies": studies, "count": _count(result["trials"])}
  files.write_text(path, rendering.environment().get_template(_TEMPLATE).render(content))
  return path


def lines(result: Mapping, workdir: str) -> str:
  """Returns the few aligned lines that end a search.

  Args:
    result: the content of tuning.json.
    workdir: directory of the search.
  """
  winner, title = result["winner"], result["metric_title"]
  test = formatting.with_interval(winner["test"], result["metric"], "no interval")
  found = {
    "trials": _count(result["trials"]),
    "best trial": f"{winner['trial']}, {_values(winner['values'])}",
    "validation": f"{winner['validation']:.3f}, {result['score_title']} {winner['measured']}, {_HIGHEST}",
    f"test {title}": f"{test}, {winner['test']['num_examples']:,} examples",
    "importance": "; ".join(filter(None, (_shares(shares) for shares in result["importance"].values()))),
    "model": str(pathlib.Path(workdir, winner["workdir"])),
    "report": str(pathlib.Path(workdir, "report.html")),
    "again": winner["command"],
  }
  return "\n".join(f"{name:<{INDENT - 1}} {text}" for name, text in found.items() if text)


def _study(name, title, trials, result):
  """Returns what the page shows of a study; the trials with the best score first."""
  order = {"complete": 0, "pruned": 1, "running": 2, "waiting": 3, "failed": 4}
  rows = sorted(trials, key=lambda trial: (order[trial["state"]], -(trial["score"] or 0.0), trial["number"]))
  score = result["score_title"]
  return {
    "name": name,
    "title": title,
    "rows": [{"words": _values(trial["values"]), **trial} for trial in rows],
    "importance": tuning_plots.importance(result["importance"].get(name, {})),
    "parallel": tuning_plots.parallel(trials, score),
    "curves": tuning_plots.curves(trials, score),
  }


def _count(trials):
  """Returns the trials in words, like "12: 8 complete, 3 pruned, 1 failed"."""
  states = [trial["state"] for trial in trials]
  return f"{len(states)}: " + ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _values(values):
  shown = (f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())
  return ", ".join(shown)


def _shares(shares):
  return ", ".join(f"{name} {share:.2f}" for name, share in sorted(shares.items(), key=lambda item: -item[1]))
