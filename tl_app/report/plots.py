"""Plots of a run. For the report they are SVG images in data URIs, one for light and one for dark pages."""

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np
import PIL.Image

from tl_app.errors.counts import number_of
from tl_app.report import confusions, formatting
from tl_app.tasks.metrics import Metrics

# Each point is a path in the page, once for light and once for dark.
MAX_POINTS = 2000
INKS = {"light": "#1c2430", "dark": "#e6e9ed"}
LINES = {"train": "#8a94a0", "validation": "#2f81d0"}
GRID = "#8a94a0"
# Cells with a number in them, on one side of a confusion matrix.
_MAX_NUMBERED = 25
# Pictures in one row.
_COLUMNS = 5


class Figure(matplotlib.figure.Figure):
  """A `matplotlib.figure.Figure` that a notebook shows without pyplot."""

  def _repr_png_(self):
    buffer = io.BytesIO()
    self.savefig(buffer, format="png")
    return buffer.getvalue()


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
  return of_metrics(epochs, _curve_titles(metrics))


def of_metrics(epochs: Sequence[Mapping], titles: Mapping[str, str]) -> dict[str, str]:
  """Returns the curves of two metrics, of the training batches where they are logged and of the validation split.

  Args:
    epochs: lines of log.jsonl, at least one.
    titles: {key: title} of the two metrics.

  Returns:
    {"light": data URI, "dark": data URI, "alt": text}.
  """
  names = {f"{prefix}{key}": title for key, title in titles.items() for prefix in ("", "val_")}
  last = epochs[-1]
  values = [
    f"{'validation ' if name.startswith('val_') else ''}{title} {formatting.decimals(last[name])}"
    for name, title in names.items()
    if name in last
  ]
  phases = ", ".join(dict.fromkeys(str(entry["phase"]) for entry in epochs))
  shown = " and ".join(titles.values())
  alt = (
    f"{shown.capitalize()} per epoch; phases: {phases}; {number_of(len(epochs), 'epoch')}. Last: {', '.join(values)}."
  )
  return themes(_curves_figure(epochs, titles, INKS["light"])) | {"alt": alt}


def scatter(rows: Sequence[Mapping[str, str]]) -> dict[str, str] | None:
  """Returns predictions against labels, or None if the rows do not have one target each.

  Args:
    rows: of the predictions file.

  Returns:
    {"light": data URI, "dark": data URI, "alt": text}.
  """
  rows = _points(rows)
  if not rows:
    return None
  return themes(scatter_figure(rows)) | {"alt": f"Predictions against labels of {len(rows):,} test examples"}


def certainty(test: Mapping) -> dict[str, str] | None:
  """Returns the reliability diagram and, where there is one, the curve of errors against answered examples.

  Args:
    test: "test" of metrics.json.

  Returns:
    {"light": data URI, "dark": data URI, "alt": text}, or None for a task without probabilities.
  """
  if "calibration" not in test:
    return None
  found = test["calibration"]
  alt = (
    f"Share of right answers against probability: expected calibration error {found['ece']:.3f}, "
    f"{found['uncalibrated']['ece']:.3f} before calibration."
  )
  return themes(certainty_figure(test)) | {"alt": alt}


def certainty_figure(test: Mapping, ink: str = INKS["light"]) -> Figure:
  """Returns a figure with the reliability diagram, and with the errors against the share of answered examples.

  Args:
    test: "test" of metrics.json, with "calibration".
    ink: colour of text and axes.
  """
  found, risk = test["calibration"], test.get("risk_coverage")
  with matplotlib.rc_context(style(ink)):
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    left, *right = figure.subplots(1, 2 if risk else 1, squeeze=False)[0]
    left.plot([0, 1], [0, 1], color=LINES["train"], linewidth=1, linestyle=":")
    most = max(count for *_, count in found["reliability"])
    for colour, label, values in (
      (LINES["train"], "before calibration", found["uncalibrated"]["reliability"]),
      (LINES["validation"], "calibrated", found["reliability"]),
    ):
      scores, shares, counts = zip(*values)
      left.plot(scores, shares, color=colour, linewidth=1, alpha=0.5)
      left.scatter(scores, shares, [6 + 90 * count / most for count in counts], color=colour, linewidths=0, label=label)
    left.set_xlabel("probability")
    left.set_ylabel("share of right answers")
    left.legend(frameon=False)
    for axes in right:
      answered, _, errors = zip(*risk["points"])
      axes.plot(answered, errors, color=LINES["validation"], marker="o", markersize=3.5)
      axes.set_xlabel("share of examples that are answered, the surest first")
      axes.set_ylabel("share of wrong answers")
      axes.set_ylim(bottom=0)
  return figure


def themes(figure: Figure) -> dict[str, str]:
  """Returns {"light", "dark"}: data URIs of a figure; that for a dark page differs in the colour of text and axes."""
  buffer = io.BytesIO()
  with matplotlib.rc_context(style(INKS["light"])):
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
  drawn = {theme: buffer.getvalue().replace(INKS["light"].encode(), ink.encode()) for theme, ink in INKS.items()}
  return {theme: f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}" for theme, svg in drawn.items()}


def curves_figure(epochs: Sequence[Mapping], metrics: Metrics, ink: str = INKS["light"]) -> Figure:
  """Returns a figure with one row for each phase: a phase with few epochs is not squeezed by a long one.

  Args:
    epochs, metrics: as of `curves`; there is at least one epoch.
    ink: colour of text and axes.
  """
  return _curves_figure(epochs, _curve_titles(metrics), ink)


def _curves_figure(epochs, titles, ink):
  phases = {}
  for entry in epochs:
    phases.setdefault(str(entry["phase"]), []).append(entry)
  with matplotlib.rc_context(style(ink)):
    figure = Figure(figsize=(9.6, 0.5 + 2.6 * len(phases)), layout="constrained")
    grid = figure.subplots(len(phases), 2, squeeze=False, sharey="col")
    for row, (phase, entries) in zip(grid, phases.items()):
      for axes, (key, title) in zip(row, titles.items()):
        _plot_curves(axes, entries, key)
        axes.set_title(f"{phase}: {title}", loc="left", fontsize=10)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
  return figure


def _curve_titles(metrics):
  return {"loss": "loss", metrics.primary_metric: metrics.primary_title}


def _plot_curves(axes, epochs, name):
  x = np.arange(1, len(epochs) + 1)
  # A line through few points hides where they are, and a single one is no line.
  marker = "o" if len(epochs) <= 12 else None
  for (split, colour), key in zip(LINES.items(), (name, f"val_{name}")):
    values = [formatting.number(entry.get(key)) for entry in epochs]
    axes.plot(x, values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=split)
  axes.set_xlabel("epoch")
  axes.set_xlim(0.5, len(epochs) + 0.5)
  axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
  axes.grid(axis="y", color=GRID, alpha=0.25, linewidth=0.8)


def scatter_figure(rows: Sequence[Mapping[str, str]], ink: str = INKS["light"]) -> Figure:
  """Returns a figure of predictions against labels, of at most `MAX_POINTS` examples.

  Args:
    rows: of the predictions file; at least one has a label.
    ink: colour of text and axes.
  """
  label, prediction = (np.array([float(row[name]) for row in _points(rows)]) for name in ("label", "prediction"))
  with matplotlib.rc_context(style(ink)):
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(label, prediction, s=14, color=LINES["validation"], alpha=0.7, linewidths=0)
    ends = [min(label.min(), prediction.min()), max(label.max(), prediction.max())]
    axes.plot(ends, ends, color=LINES["train"], linewidth=1)
    axes.set_xlabel("label")
    axes.set_ylabel("prediction")
  return figure


def _points(rows):
  """Returns the rows that have one target each, of very many every n-th."""
  rows = [row for row in rows if "label" in row]
  return rows[:: -(-len(rows) // MAX_POINTS)] if rows else rows


def confusion_figure(test: Mapping, ink: str = INKS["light"]) -> Figure:
  """Returns a figure of the confusion matrix: a row per true class, coloured by the share of its examples.

  Of many classes it shows those of `confusions.readable_matrix`.

  Args:
    test: "test" of metrics.json, with a confusion matrix.
    ink: colour of text and axes.
  """
  names, counts = confusions.readable_matrix(test)
  shares, size = confusions.shares(counts), len(names)
  side = min(2.5 + 0.45 * size, 12)
  with matplotlib.rc_context(style(ink)):
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    shown = [textwrap.shorten(name, 24, placeholder="..") or name[:24] for name in names]
    font = 10 if size <= _MAX_NUMBERED else 7
    axes.set_xticks(range(size), shown, rotation=90 if max(map(len, shown)) > 3 else 0, fontsize=font)
    axes.set_yticks(range(size), shown, fontsize=font)
    for row, column in np.argwhere(counts) if size <= _MAX_NUMBERED else ():
      colour = "white" if shares[row, column] > 0.5 else "#1c2430"
      axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    total = len(test["per_class"])
    if size < total:
      axes.set_title(f"the {size} of {total:,} classes with the most wrong answers", fontsize=10)
  return figure


def pictures_figure(pictures: Sequence[str], titles: Sequence[str], ink: str = INKS["light"]) -> Figure:
  """Returns a figure of pictures with a title each.

  Args:
    pictures: data URIs of JPEG images, see `Modality.preview`; at least one.
    titles: one for each picture.
    ink: colour of text.
  """
  lines = -(-len(pictures) // _COLUMNS)
  with matplotlib.rc_context(style(ink)):
    figure = Figure(figsize=(2.2 * _COLUMNS, 2.7 * lines), layout="constrained")
    grid = list(figure.subplots(lines, _COLUMNS, squeeze=False).flat)
    for axes in grid:
      axes.set_axis_off()
    for axes, picture, title in zip(grid, pictures, titles):
      axes.imshow(PIL.Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))))
      axes.set_title(title, fontsize=9)
  return figure


def style(ink: str) -> dict:
  """Returns the settings of matplotlib for a figure whose text and axes have a colour."""
  inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
  # The hash salt and the missing date make the same run give the same bytes.
  return dict.fromkeys(inked, ink) | {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "tl_app",
  }
