"""One offline HTML page about a run, from the files of its workdir."""

import base64
import csv
import heapq
import io
import json
import pathlib
import shlex

import jinja2
import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from tl_app import config as config_lib
from tl_app import files, tasks
from tl_app.data import modalities
from tl_app.errors import UserError
from tl_app.report import formatting

FILE = "report.html"

_TEMPLATE = pathlib.Path(__file__).parent / "templates" / FILE
# A larger matrix has no readable cells.
_MAX_MATRIX_CLASSES = 40
_MAX_CONFUSIONS = 25
_MAX_ERRORS = 25
_MAX_SKIPPED = 50
# Each is a path in the page, drawn for light and dark.
_MAX_POINTS = 2000
_SPLIT_FACTS = (
  "source",
  "num_examples",
  "drawn",
  "split_seed",
  "validation_fraction",
  "test_fraction",
  "max_examples",
  "max_examples_per_class",
)
_INKS = {"light": "#1c2430", "dark": "#e6e9ed"}
_LINES = {"train": "#8a94a0", "validation": "#2f81d0"}


def write(workdir, examples=None):
  """Writes `page.html` into `workdir` and returns its path.

  Reads metrics.json (needed), and config.json, plan.json, splits.json, findings.json, log.jsonl and
  predictions_test.csv (a section is left out where its file is absent). The page loads nothing: styles and figures are
  inside, there is no script.

  Args:
    workdir: directory of the run.
    examples: `Examples` with the test split; the worst errors then show their text or image.

  Raises:
    UserError: metrics.json is absent, or one of the files cannot be read.
  """
  workdir = pathlib.Path(workdir)
  metrics = _read_json(workdir / "metrics.json")
  if "test" not in metrics:
    raise UserError(f"{workdir} holds no metrics of a finished run (metrics.json): train first, or correct --workdir")
  config = _read_json(workdir / "config.json")
  plan = _read_json(workdir / "plan.json")
  task = tasks.of_metrics(metrics)
  errors = _errors(workdir / "predictions_test.csv", task.answers)
  if examples and errors:
    _make_legible(errors["worst"], examples, task)
  page = {
    "config": config,
    "task": task,
    "metrics": metrics,
    "baseline": task.metrics.baseline_score(metrics),
    "plan": plan,
    "curves": _curves(_read_log(workdir / "log.jsonl"), task),
    "classes": _classes(metrics["test"]),
    "matrix": _matrix(metrics["test"]),
    "confusions": _confusions(metrics["test"])[:_MAX_CONFUSIONS],
    "candidates": [
      {"name": formatting.candidate(name)} | values for name, values in metrics.get("candidates", {}).items()
    ],
    "errors": errors,
    "scatter": None if task.has_class_names else _scatter(workdir / "predictions_test.csv"),
    "inputs": _inputs(examples, [row["id"] for row in errors["worst"]]) if examples and errors else None,
    "stages": _stages(plan),
    "data": _data(_read_json(workdir / "splits.json")),
    "findings": _read_json(workdir / "findings.json"),
    "flags": _flags(config),
    "command": _command(config),
  }
  files.write_text(workdir / FILE, _environment().get_template(_TEMPLATE.name).render(page))
  return workdir / FILE


def _environment():
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATE.parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
  )
  environment.filters |= {
    "figure": _figure,
    "count": _count,
    "rate": _rate,
    "duration": _duration,
    "plain": _plain,
    "sentence": lambda text: text[:1].upper() + text[1:],
    "flat": _flat,
    "candidate": formatting.candidate,
  }
  return environment


def _read_json(path):
  if not path.exists():
    return {}
  try:
    value = files.read_json(path)
  except ValueError as error:
    raise UserError(f"{path} is not JSON ({error}): run the training again") from None
  if not isinstance(value, dict):
    raise UserError(f"{path} does not hold a JSON object: run the training again")
  return value


def _read_log(path):
  """Returns the epochs of log.jsonl in order. Other lines are passed over, also the torn last line of a killed run."""
  epochs = []
  for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
    try:
      entry = json.loads(line)
    except ValueError:
      continue
    if isinstance(entry, dict) and {"phase", "epoch"} <= entry.keys():
      epochs.append(entry)
  return epochs


def _curves(epochs, task):
  """Returns {"light", "dark"} data URIs of the loss and score curves and "alt", or None without epochs."""
  if not epochs:
    return None
  curves = {theme: _data_uri(_curves_figure(epochs, task, ink), ink) for theme, ink in _INKS.items()}
  last = epochs[-1]
  names = {f"{prefix}{key}": title for key, title in _curved(task).items() for prefix in ("", "val_")}
  figures = [
    f"{'validation ' if name.startswith('val_') else ''}{title} {_figure(last[name])}"
    for name, title in names.items()
    if name in last
  ]
  phases = ", ".join(dict.fromkeys(str(entry["phase"]) for entry in epochs))
  curves["alt"] = (
    f"Loss and {task.metrics.primary_title} per epoch; phases: {phases}; {len(epochs)} epochs. "
    f"Last: {', '.join(figures)}."
  )
  return curves


def _curved(task):
  return {"loss": "loss", task.metrics.primary_metric: task.metrics.primary_title}


def _curves_figure(epochs, task, ink):
  """Returns a figure with a row per phase: loss, score. A phase of few epochs is not squeezed by a long one."""
  phases = {}
  for entry in epochs:
    phases.setdefault(str(entry["phase"]), []).append(entry)
  with matplotlib.rc_context(_style(ink)):
    figure = matplotlib.figure.Figure(figsize=(9.6, 0.5 + 2.6 * len(phases)), layout="constrained")
    grid = figure.subplots(len(phases), 2, squeeze=False, sharey="col")
    for row, (phase, entries) in zip(grid, phases.items()):
      for axes, (key, title) in zip(row, _curved(task).items()):
        _plot_curves(axes, entries, key)
        axes.set_title(f"{phase}: {title}", loc="left", fontsize=10)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
  return figure


def _plot_curves(axes, epochs, name):
  x = np.arange(1, len(epochs) + 1)
  # A line through few points hides where they are, and a single one is no line.
  marker = "o" if len(epochs) <= 12 else None
  for (split, colour), key in zip(_LINES.items(), (name, f"val_{name}")):
    values = [_number(entry.get(key)) for entry in epochs]
    axes.plot(x, values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=split)
  axes.set_xlabel("epoch")
  axes.set_xlim(0.5, len(epochs) + 0.5)
  axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
  axes.grid(axis="y", color="#8a94a0", alpha=0.25, linewidth=0.8)


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


def _classes(test):
  """Returns the rows of the per-class table, lowest F1 first, each with the class it is most often taken for."""
  per_class = test.get("per_class", {})
  taken_for = {}
  for confusion in reversed(_confusions(test)):
    taken_for[confusion["label"]] = confusion
  rows = [{"name": name, "taken_for": taken_for.get(name)} | values for name, values in per_class.items()]
  return sorted(rows, key=lambda row: row.get("f1", 0))


def _matrix(test):
  """Returns {"names", "rows"} of a confusion matrix that can be read; a cell is (count, share of its row), or None."""
  names, confusion = _confusion_matrix(test)
  if not 0 < len(names) <= _MAX_MATRIX_CLASSES:
    return None
  shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
  cells = [list(zip(*row)) for row in zip(confusion.tolist(), shares.tolist())]
  return {"names": names, "rows": list(zip(names, cells))}


def _confusions(test):
  """Returns every confusion, most frequent first: {"label", "prediction", "count", "share" of the label's examples}."""
  names, confusion = _confusion_matrix(test)
  support = confusion.sum(axis=1)
  rows, columns = np.nonzero(confusion * (1 - np.eye(len(names), dtype=int)))
  order = np.argsort(-confusion[rows, columns], kind="stable")
  return [
    {
      "label": names[row],
      "prediction": names[column],
      "count": int(confusion[row, column]),
      "share": confusion[row, column] / support[row],
    }
    for row, column in zip(rows[order], columns[order])
  ]


def _confusion_matrix(test):
  names = list(test.get("per_class", {}))
  confusion = np.array(test.get("confusion_matrix", []), dtype=np.int64)
  if confusion.shape != (len(names), len(names)):
    return [], np.zeros((0, 0), dtype=np.int64)
  return names, confusion


def _errors(path, answers):
  """Returns {"number", "of", "worst", "text"}: the worst of the wrong predictions, or None without the file."""
  if not path.exists():
    return None
  number, of, worst = 0, 0, []
  try:
    with open(path, newline="", encoding="utf-8") as file:
      for of, row in enumerate(csv.DictReader(file), start=1):
        error = answers.error(row)
        if error is None:
          continue
        number += 1
        entry = (error, -of, row)
        (heapq.heappush if len(worst) < _MAX_ERRORS else heapq.heappushpop)(worst, entry)
  except (KeyError, TypeError, ValueError, csv.Error):
    raise UserError(f"{path}: line {of + 1} is not a row of predictions: run the evaluation again") from None
  rows = [row for *_, row in sorted(worst, reverse=True, key=lambda entry: entry[:2])]
  return {"number": number, "of": of, "worst": rows, "text": answers.describe_errors(len(rows), number, of)}


def _make_legible(rows, examples, task):
  """Puts the labels and predictions of `rows` as a person reads them; the inputs are those of `examples`."""
  inputs = dict(zip(examples.ids, examples.inputs))
  for row in rows:
    row.update(
      {key: task.answers.format_label(row[key], inputs[row["id"]]) for key in ("label", "prediction") if key in row}
    )


def _scatter(path):
  """Returns {"light", "dark"} data URIs of predictions against labels and "alt", or None with several targets."""
  if not path.exists():
    return None
  with open(path, newline="", encoding="utf-8") as file:
    rows = [row for row in csv.DictReader(file) if "label" in row]
  if not rows:
    return None
  rows = rows[:: -(-len(rows) // _MAX_POINTS)]
  label, prediction = (np.array([float(row[name]) for row in rows]) for name in ("label", "prediction"))
  drawn = {theme: _data_uri(_scatter_figure(label, prediction, ink), ink) for theme, ink in _INKS.items()}
  return drawn | {"alt": f"Predictions against labels of {len(rows):,} test examples"}


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


def _inputs(examples, ids):
  """Returns {"texts": {id: text}, "images": {id: data URI of a thumbnail}} of the examples at `ids`."""
  wanted, modality = set(ids), modalities.of(examples.modality)
  previews = {id: modality.preview(value) for id, value in zip(examples.ids, examples.inputs) if id in wanted}
  return {
    f"{form}s": {id: preview[form] for id, preview in previews.items() if form in preview} for form in ("text", "image")
  }


def _stages(plan):
  """Returns a row per stage: name, variables, parameters, and its learning rate in each phase (None: frozen)."""
  phases = plan.get("phases", [])
  stages = {stage["name"]: stage for stage in plan.get("stages", [])}
  for phase in phases:
    for name in phase.get("train_stages", []):
      stages.setdefault(name, {"name": name})
  return [stage | {"rates": [_stage_rate(phase, name) for phase in phases]} for name, stage in stages.items()]


def _stage_rate(phase, name):
  return phase.get("learning_rates", {}).get(name) if name in phase.get("train_stages", []) else None


def _data(manifest):
  """Returns what splits.json tells: facts, notes, skipped examples, and counts per class (rows) and split (columns)."""
  counts = manifest.get("counts", {})
  names = {name for per_class in counts.values() for name in per_class}
  skipped = manifest.get("skipped", [])
  return {
    "facts": {name: manifest[name] for name in _SPLIT_FACTS if name in manifest},
    "notes": manifest.get("notes", []),
    "skipped": skipped[:_MAX_SKIPPED],
    "num_skipped": len(skipped),
    "splits": list(counts),
    "totals": [sum(per_class.values()) for per_class in counts.values()],
    "rows": [(name, [per_class.get(name, 0) for per_class in counts.values()]) for name in sorted(names)],
  }


def _flags(config):
  """Returns a row per flag, those that differ from their default first."""
  rows = []
  for name, value in config.items():
    field = config_lib.FIELDS.get(name)
    row = {"name": name, "value": value, "default": None, "help": "", "is_default": False}
    if field:
      row |= {"default": field.default, "help": field.metadata["help"], "is_default": value == field.default}
    rows.append(row)
  return sorted(rows, key=lambda row: row["is_default"])


def _command(config):
  given = [row for row in _flags(config) if not row["is_default"]]
  flags = [shlex.quote(f"--{row['name']}={_plain(row['value'])}") for row in given]
  return " ".join(["python -m tl_app.train", *flags])


def _number(value):
  return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")


def _figure(value):
  return f"{value:.3f}" if np.isfinite(_number(value)) else "–"


def _count(value):
  return f"{value:,.0f}" if np.isfinite(_number(value)) else "–"


def _rate(value):
  return f"{value:.3g}" if np.isfinite(_number(value)) else "–"


def _duration(value):
  seconds = _number(value)
  if not np.isfinite(seconds):
    return "–"
  if seconds < 10:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _plain(value):
  """Returns a value as text: strings as they are, lists of strings with commas, the rest as JSON."""
  if isinstance(value, list) and all(isinstance(item, str) for item in value):
    return ", ".join(value)
  return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(values):
  """Returns the dict with the entries of inner dicts in the place of these."""
  flat = {}
  for name, value in values.items():
    flat |= _flat(value) if isinstance(value, dict) else {name: value}
  return flat
