"""The report of a run: one HTML page that needs no network, made from the files of the workdir."""

import pathlib

import jinja2

from tl_app import config as config_lib
from tl_app import files, tasks
from tl_app import workdir as workdir_lib
from tl_app.data import modalities
from tl_app.data.examples import Examples
from tl_app.errors import UserError
from tl_app.report import confusions, epoch_log, formatting, plots, predictions
from tl_app.tasks import statistics

_TEMPLATE = pathlib.Path(__file__).parent / "templates" / "report.html"
_MAX_CONFUSIONS = 25
_MAX_ERRORS = 25
_MAX_SKIPPED = 50
_SPLIT_FACTS = (
  "source",
  "num_examples",
  "sampled",
  "split_seed",
  "validation_fraction",
  "test_fraction",
  "max_examples",
  "max_examples_per_class",
)


def write(root: str | pathlib.Path, examples=None) -> pathlib.Path:
  """Writes report.html into a workdir and returns its path.

  Reads metrics.json, which is needed, and config.json, plan.json, splits.json, findings.json, log.jsonl and
  predictions_test.csv; the page has no section for a file that is absent. The page loads nothing: styles and plots
  are inside, and there is no script.

  Args:
    root: directory of the run.
    examples: `Examples` with the test split; the worst errors then show their text or image.

  Raises:
    UserError: metrics.json is absent, or one of the files cannot be read.
  """
  paths = workdir_lib.Workdir(pathlib.Path(root))
  metrics = read_json(paths.metrics)
  if "test" not in metrics:
    raise UserError(f"{root} holds no metrics of a finished run (metrics.json): train first, or correct --workdir")
  task = tasks.of_metrics(metrics)
  config, plan = read_json(paths.config), read_json(paths.plan)
  candidates = metrics.get("candidates", {})
  page = {
    "config": config,
    "task": task,
    "metrics": metrics,
    "baseline": task.metrics.baseline_score(metrics),
    "plan": plan,
    "certainty": plots.certainty(metrics["test"]),
    "curves": plots.curves(epoch_log.read(paths.log), task.metrics),
    "candidates": [{"name": formatting.candidate(name)} | values for name, values in candidates.items()],
    "stages": _stages(plan),
    "data": _data(read_json(paths.splits)),
    "findings": read_json(paths.findings),
    "flags": _flags(config),
    "command": formatting.command("tl_app.train", formatting.given_flags(config)),
  }
  page |= _test_results(metrics["test"]) | _test_predictions(paths.predictions, task, examples)
  files.write_text(paths.report, environment().get_template(_TEMPLATE.name).render(page))
  return paths.report


def environment() -> jinja2.Environment:
  """Returns the environment of the templates."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATE.parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
  )
  environment.filters |= {
    "decimals": formatting.decimals,
    "count": formatting.count,
    "significant": formatting.significant,
    "duration": formatting.duration,
    "plain": formatting.plain,
    "sentence": formatting.sentence,
    "candidate": formatting.candidate,
    "flat": _flat,
  }
  return environment


def read_json(path: pathlib.Path) -> dict:
  """Returns a JSON file of a workdir, {} where it is absent. Raises `UserError` if it is damaged."""
  if not path.exists():
    return {}
  try:
    return workdir_lib.read(path)
  except ValueError as error:
    raise UserError(f"{path} is damaged ({error}): run the training again") from None


def _test_results(test):
  """Returns what the page shows of the metrics of the test split: classes, matrix and confusions."""
  return {
    "classes": _classes(test),
    "without_examples": statistics.classes_without_examples(test),
    "macro_f1_note": statistics.MACRO_F1_NOTE if "macro_f1" in test else "",
    "matrix": _matrix(test),
    "confusions": confusions.most_frequent(test)[:_MAX_CONFUSIONS],
  }


def _classes(test):
  """Returns the rows of the table of classes, lowest F1 first, each with its most frequent confusion."""
  per_class = test.get("per_class", {})
  confused_with = {}
  for confusion in reversed(confusions.most_frequent(test)):
    confused_with[confusion["label"]] = confusion
  rows = [{"name": name, "confused_with": confused_with.get(name)} | values for name, values in per_class.items()]
  return sorted(rows, key=lambda row: row.get("f1", 0))


def _matrix(test):
  """Returns {"names", "rows"} of a confusion matrix that can be read; a cell is (count, share of its row), or None."""
  names, counts = confusions.matrix(test)
  if not 0 < len(names) <= confusions.MAX_MATRIX_CLASSES:
    return None
  cells = [list(zip(*row)) for row in zip(counts.tolist(), confusions.shares(counts).tolist())]
  return {"names": names, "rows": list(zip(names, cells))}


def _test_predictions(path, task, examples):
  """Returns the sections "errors", "errors_text", "inputs" and "scatter" of the predictions file."""
  errors = predictions.worst(path, task.answers, _MAX_ERRORS)
  if errors is None:
    return {"errors": None, "inputs": None, "scatter": None}
  if examples:
    _format_labels(errors.worst, examples, task.answers)
  return {
    "errors": errors,
    "error_columns": [name for name in (errors.worst or [{}])[0] if name not in ("id", *predictions.INPUTS)],
    "errors_text": task.answers.describe_errors(len(errors.worst), errors.wrong, errors.total),
    "inputs": previews(examples, {row["id"] for row in errors.worst}) if examples else None,
    "scatter": None if task.has_class_names else plots.scatter(predictions.read(path)),
  }


def _format_labels(rows, examples, answers):
  """Formats the labels and predictions of `rows` for people; `examples` have the inputs."""
  inputs = dict(zip(map(predictions.written, examples.ids), examples.inputs.array()))
  for row in rows:
    row.update(
      {key: answers.format_label(row[key], inputs[row["id"]]) for key in ("label", "prediction") if key in row}
    )


def previews(examples: Examples, ids: set[str]) -> dict[str, dict[str, str]]:
  """Returns {"texts": {id: text}, "images": {id: data URI of a thumbnail}} of the examples with these ids.

  Args:
    examples: the `Examples`.
    ids: as a predictions file has them.
  """
  modality = modalities.of(examples.modality)
  rows = zip(map(predictions.written, examples.ids), examples.inputs.rows())
  found = {id: modality.preview(row) for id, row in rows if id in ids}
  return {
    f"{form}s": {id: preview[form] for id, preview in found.items() if form in preview} for form in ("text", "image")
  }


def _stages(plan):
  """Returns a row per stage: name, variables, parameters, and its learning rate in each phase (None: frozen)."""
  phases = plan.get("phases", [])
  stages = {stage["name"]: stage for stage in plan.get("stages", [])}
  for phase in phases:
    for name in phase.get("train_stages", []):
      stages.setdefault(name, {"name": name})
  return [
    stage | {"learning_rates": [_learning_rate(phase, name) for phase in phases]} for name, stage in stages.items()
  ]


def _learning_rate(phase, stage):
  return phase.get("learning_rates", {}).get(stage) if stage in phase.get("train_stages", []) else None


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


def _flat(values):
  """Returns the dict with the entries of inner dicts in the place of these."""
  flat = {}
  for name, value in values.items():
    flat |= _flat(value) if isinstance(value, dict) else {name: value}
  return flat
