"""Plots of the report: SVG images in data URIs, one for light and one for dark pages."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from tl_app.report import formatting
from tl_app.tasks.metrics import Metrics

# Each point is a path in the page, once for light and once for dark.
MAX_POINTS = 2000
_INKS = {"light": "#1c2430", "dark": "#e6e9ed"}
_LINES = {"train": "#8a94a0", "validation": "#2f81d0"}


def curves(epochs: Sequence[Mapping], metrics: Metrics) -> dict[str, str] | None:
  """Returns the curves of the loss and of the primary metric, or None without epochs.

  Args:
    epochs: lines of log.jsonl: {"phase", "epoch", "loss", "val_loss", ..}.
    metrics: the `Metrics` of the task.

  Returns:
    {"light": data URI, "dark": data URI, "alt": text}.
  """
  if not epochs:
    return None
  titles = {"loss": "loss", metrics.primary_metric: metrics.primary_title}
  last = epochs[-1]
  names = {f"{prefix}{key}": title for key, title in titles.items() for prefix in ("", "val_")}
  values = [
    f"{'validation ' if name.startswith('val_') else ''}{title} {formatting.decimals(last[name])}"
    for name, title in names.items()
    if name in last
  ]
  phases = ", ".join(dict.fromkeys(str(entry["phase"]) for entry in epochs))
  alt = (
    f"Loss and {metrics.primary_title} per epoch; phases: {phases}; {len(epochs)} epochs. Last: {', '.join(values)}."
  )
  return _themes(lambda ink: _curves_figure(epochs, titles, ink)) | {"alt": alt}


def scatter(rows: Sequence[Mapping[str, str]]) -> dict[str, str] | None:
  """Returns predictions against labels, or None if the rows do not have one target each.

  Args:
    rows: of the predictions file.

  Returns:
    {"light": data URI, "dark": data URI, "alt": text}.
  """
  rows = [row for row in rows if "label" in row]
  if not rows:
    return None
  rows = rows[:: -(-len(rows) // MAX_POINTS)]
  label, prediction = (np.array([float(row[name]) for row in rows]) for name in ("label", "prediction"))
  figure = _themes(lambda ink: _scatter_figure(label, prediction, ink))
  return figure | {"alt": f"Predictions against labels of {len(rows):,} test examples"}


def _themes(draw: Callable) -> dict[str, str]:
  return {theme: _data_uri(draw(ink), ink) for theme, ink in _INKS.items()}


def _curves_figure(epochs, titles, ink):
  """Returns a figure with one row for each phase: a phase with few epochs is not squeezed by a long one."""
  phases = {}
  for entry in epochs:
    phases.setdefault(str(entry["phase"]), []).append(entry)
  with matplotlib.rc_context(_style(ink)):
    figure = matplotlib.figure.Figure(figsize=(9.6, 0.5 + 2.6 * len(phases)), layout="constrained")
    grid = figure.subplots(len(phases), 2, squeeze=False, sharey="col")
    for row, (phase, entries) in zip(grid, phases.items()):
      for axes, (key, title) in zip(row, titles.items()):
        _plot_curves(axes, entries, key)
        axes.set_title(f"{phase}: {title}", loc="left", fontsize=10)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
  return figure


def _plot_curves(axes, epochs, name):
  x = np.arange(1, len(epochs) + 1)
  # A line through few points hides where they are, and a single one is no line.
  marker = "o" if len(epochs) <= 12 else None
  for (split, colour), key in zip(_LINES.items(), (name, f"val_{name}")):
    values = [formatting.number(entry.get(key)) for entry in epochs]
    axes.plot(x, values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=split)
  axes.set_xlabel("epoch")
  axes.set_xlim(0.5, len(epochs) + 0.5)
  axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
  axes.grid(axis="y", color="#8a94a0", alpha=0.25, linewidth=0.8)


def _scatter_figure(label, prediction, ink):
  with matplotlib.rc_context(_style(ink)):
    figure = matplotlib.figure.Figure(figsize=(9.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(label, prediction, s=9, color=_LINES["validation"], alpha=0.45, linewidths=0)
    ends = [min(label.min(), prediction.min()), max(label.max(), prediction.max())]
    axes.plot(ends, ends, color=_LINES["train"], linewidth=1)
    axes.set_xlabel("label")
    axes.set_ylabel("prediction")
  return figure


def _style(ink):
  inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
  # The hash salt and the missing date make the same run give the same bytes.
  return dict.fromkeys(inked, ink) | {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "tl_app",
  }


def _data_uri(figure, ink):
  buffer = io.BytesIO()
  with matplotlib.rc_context(_style(ink)):
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
  return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
