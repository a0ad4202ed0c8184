"""The ranking of backbones: a table and lines for the terminal, and one HTML page that needs no network."""

import pathlib
from collections.abc import Mapping

import matplotlib
import matplotlib.ticker

from tl_app import files
from tl_app.report import formatting, plots, rendering

_TEMPLATE = "selection.html"
# Column in which the values of `lines` begin.
INDENT = 18
_TITLES = ("backbone", "probe", "+-", "p", "neighbours", "LogME", "H-score", "ms", "MB", "parameters", "licence")


def write(path: pathlib.Path, result: Mapping) -> pathlib.Path:
  """Writes the page and returns its path.

  Args:
    path: of the page.
    result: the content of selection.json.
  """
  content = {"result": result, "titles": _TITLES, "rows": [_cells(row) for row in result["backbones"]]}
  content["plot"] = latency(result)
  files.write_text(path, rendering.environment().get_template(_TEMPLATE).render(content))
  return path


def table(result: Mapping) -> str:
  """Returns the ranking as an aligned table, the best backbone first.

  Args:
    result: the content of selection.json.
  """
  rows = [list(_TITLES), *(_cells(row) for row in result["backbones"])]
  widths = [max(len(row[place]) for row in rows) for place in range(len(_TITLES))]
  lines = (
    "  ".join(
      cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths))
    )
    for row in rows
  )
  return "".join(f"{line.rstrip()}\n" for line in lines)


def lines(result: Mapping, workdir: str) -> str:
  """Returns the few aligned lines that end the command.

  Args:
    result: the content of selection.json.
    workdir: of the command, or "".
  """
  title, best, quick = result["metric_title"], result["best"], result["quick"]
  found = [
    ("examples", f"{result['examples']:,}, of the training and validation splits; probe: {title} by cross-validation"),
    ("p", f"of the paired test against {best}: above 0.05 these examples do not distinguish the two"),
    *(("failed", f"{row['name']}: {row['failure']}") for row in result["failed"]),
    ("best", best),
    ("quickest", f"{quick}, of those that are not distinguished from the best" if quick != best else ""),
    ("next", result["commands"][quick if quick != best else best]),
    ("or", result["commands"][best] if quick != best else ""),
    ("report", str(pathlib.Path(workdir, "selection.html")) if workdir else ""),
  ]
  return "\n".join(f"{name:<{INDENT - 1}} {text}" for name, text in found if text)


def latency(result: Mapping) -> dict[str, str]:
  """Returns the scores of the probe against the latency.

  Args:
    result: the content of selection.json.

  Returns:
    {"light": data URI, "dark": data URI, "alt": text}.
  """
  rows = [row for row in result["backbones"] if row["latency_ms"]]
  with matplotlib.rc_context(plots.style(plots.INKS["light"])):
    figure = plots.Figure(figsize=(9.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for row in rows:
      chosen = row["name"] in (result["best"], result["quick"])
      colour = plots.LINES["validation" if chosen else "train"]
      axes.errorbar(
        row["latency_ms"], row["score"], row["deviation"], fmt="o", color=colour, markersize=6, elinewidth=1
      )
      name = pathlib.PurePath(row["name"]).name
      axes.annotate(name, (row["latency_ms"], row["score"]), xytext=(6, 5), textcoords="offset points", fontsize=9)
    if len(rows) > 1 and max(r["latency_ms"] for r in rows) > 5 * min(r["latency_ms"] for r in rows):
      axes.set_xscale("log")
      axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.margins(x=0.25, y=0.15)
    axes.set_xlabel("milliseconds for one example")
    axes.set_ylabel(f"{result['metric_title']} of the probe")
    axes.grid(color=plots.LINES["train"], alpha=0.25, linewidth=0.8)
  listed = ", ".join(f"{row['name']} {row['score']:.3f} at {row['latency_ms']:g} ms" for row in rows)
  return plots.themes(figure) | {"alt": f"Score of the probe against the time for one example: {listed}."}


def _cells(row):
  p = "" if row["p_value"] is None else f"{row['p_value']:.2g}"
  return [
    row["name"],
    formatting.decimals(row["score"]),
    formatting.decimals(row["deviation"]),
    p,
    formatting.decimals(row["neighbours"]),
    formatting.decimals(row["logme"]),
    formatting.significant(row["h_score"]),
    formatting.significant(row["latency_ms"]),
    formatting.count(row["memory_mb"]),
    formatting.count(row["parameters"]),
    row["licence"],
  ]
