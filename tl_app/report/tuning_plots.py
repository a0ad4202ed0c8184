"""Plots of a search: importance of its flags, its trials as lines over the flags, and curves of fine-tuning."""

from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.ticker
import numpy as np

from tl_app.errors.counts import number_of
from tl_app.report.plots import GRID, INKS, LINES, Figure, style, themes

# Values of a flag on an axis, above which the smallest and the largest of its numbers are shown.
_MAX_TICKS = 8


def importance(shares: Mapping[str, float]) -> dict[str, str] | None:
  """Returns bars of the importance of each flag, or None without any.

  Args:
    shares: {flag: share of the variance of the scores}.

  Returns:
    {"light": data URI, "dark": data URI, "alt": text}.
  """
  if not shares:
    return None
  names, values = zip(*sorted(shares.items(), key=lambda item: item[1]))
  with matplotlib.rc_context(style(INKS["light"])):
    figure = Figure(figsize=(9.6, 0.8 + 0.34 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.barh(names, values, color=LINES["validation"], height=0.6)
    axes.set_xlabel("share of the variance of the scores")
    axes.set_xlim(0, 1)
  listed = ", ".join(f"{name} {value:.2f}" for name, value in reversed(list(zip(names, values))))
  return themes(figure) | {"alt": f"Importance of the flags: {listed}."}


def parallel(trials: Sequence[Mapping], title: str) -> dict[str, str] | None:
  """Returns a line for each trial over an axis for each flag and one for the score, or None without finished trials.

  Args:
    trials: {"values", "score"}, those with a score.
    title: of the score.

  Returns:
    {"light": data URI, "dark": data URI, "alt": text}.
  """
  trials = [trial for trial in trials if trial["score"] is not None]
  names = list(dict.fromkeys(name for trial in trials for name in trial["values"]))
  if not trials or not names:
    return None
  axes_of = [_Axis([trial["values"].get(name) for trial in trials]) for name in names]
  axes_of.append(_Axis([trial["score"] for trial in trials]))
  scores = np.array([trial["score"] for trial in trials])
  span = (scores - scores.min()) / max(float(np.ptp(scores)), 1e-12)
  with matplotlib.rc_context(style(INKS["light"])):
    figure = Figure(figsize=(max(6.0, 1.7 * len(axes_of)), 3.8), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["viridis"]
    for index in np.argsort(scores):
      heights = [axis.heights[index] for axis in axes_of]
      axes.plot(range(len(heights)), heights, color=colours(0.9 - 0.8 * span[index]), linewidth=1.3, alpha=0.8)
    for place, axis in enumerate(axes_of):
      axes.axvline(place, color=GRID, linewidth=0.8, alpha=0.5)
      for height, text in axis.ticks():
        axes.annotate(text, (place, height), xytext=(3, 0), textcoords="offset points", fontsize=8, va="center")
    axes.set_xticks(range(len(axes_of)), [*names, title], rotation=20 if len(axes_of) > 4 else 0)
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(axes_of) - 0.6)
    axes.spines["left"].set_visible(False)
  alt = f"{number_of(len(trials), 'trial')} as lines over {', '.join(names)} and {title}; dark: higher scores."
  return themes(figure) | {"alt": alt}


def curves(trials: Sequence[Mapping], title: str) -> dict[str, str] | None:
  """Returns the score of each trial after each epoch of fine-tuning, or None if there are no epochs.

  Args:
    trials: {"number", "state", "curve"}.
    title: of the score.

  Returns:
    {"light": data URI, "dark": data URI, "alt": text}.
  """
  drawn = [trial for trial in trials if trial["curve"]]
  if not drawn:
    return None
  best = max(drawn, key=lambda trial: max(trial["curve"].values()))
  with matplotlib.rc_context(style(INKS["light"])):
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for trial in drawn:
      epochs, scores = zip(*sorted((int(epoch), score) for epoch, score in trial["curve"].items()))
      is_best, pruned = trial is best, trial["state"] == "pruned"
      colour = LINES["validation"] if is_best else LINES["train"]
      look = {"linestyle": ":" if pruned else "-", "linewidth": 2.2 if is_best else 1.1, "zorder": 3 if is_best else 2}
      axes.plot(epochs, scores, color=colour, marker="o", markersize=3, **look)
    axes.set_xlabel("epoch of fine-tuning")
    axes.set_ylabel(title)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color=GRID, alpha=0.25, linewidth=0.8)
  stopped = sum(trial["state"] == "pruned" for trial in drawn)
  alt = f"Validation {title} per epoch of {number_of(len(drawn), 'trial')}; stopped early (dotted): {stopped}."
  return themes(figure) | {"alt": alt}


class _Axis:
  """The heights of values on one axis, from 0 to 1: by size for numbers, in order for names.

  Numbers over more than a factor of 30 stand by their logarithm.
  """

  def __init__(self, values):
    given = [value for value in values if value is not None]
    self._numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given)
    if self._numbers:
      low, high = min(given), max(given)
      scale = np.log if low > 0 and high / low > 30 else float
      ends = [float(scale(low)), float(scale(high))]
      self._place = lambda value: 0.5 if ends[0] == ends[1] else (float(scale(value)) - ends[0]) / (ends[1] - ends[0])
    else:
      order = list(dict.fromkeys(sorted(map(str, given))))
      self._place = lambda value: 0.5 if len(order) == 1 else order.index(str(value)) / (len(order) - 1)
    self._given = given
    # A flag without effect in a trial has no value there: its line goes through the middle.
    self.heights = [0.5 if value is None else self._place(value) for value in values]

  def ticks(self):
    """Yields (height, text) of the values that are shown."""
    shown = list(dict.fromkeys(self._given))
    if self._numbers and len(shown) > _MAX_TICKS:
      shown = [min(shown), max(shown)]
    for value in shown[: 2 * _MAX_TICKS]:
      yield self._place(value), f"{value:.3g}" if isinstance(value, float) else str(value)[:18]
