"""Compares finished runs on the same test examples: the difference, its chance, and which examples changed."""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from tl_app import files, tasks
from tl_app import workdir as workdir_lib
from tl_app.commands import compare_statistics
from tl_app.commands.compare_statistics import Run
from tl_app.config.paths import expanded
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.files import checksums
from tl_app.report import comparison_page, formatting, predictions, slices
from tl_app.report.slices import measure

RESULT, PAGE, CHANGES = "comparison.json", "comparison.html", "changes.csv"
# Examples of each kind in comparison.json and on the page; changes.csv has all.
_SHOWN = 50


@dataclasses.dataclass
class _Finished:
  """A finished run: its `Run`, the rows of its predictions in the order of the ids, and the errors of its answers."""

  workdir: str
  run: Run
  rows: list[dict[str, str]]
  mistakes: np.ndarray


def refuse(given: Sequence[str]) -> None:
  """Raises `UserError` if flags were given that a comparison of finished runs does not use."""
  if given:
    raise UserError(f"--{given[0]} does nothing with --workdirs, which compares finished runs: remove it")


def compare(workdirs: Sequence[str], output: str = "") -> dict:
  """Compares the first run with each of the others, example by example.

  Args:
    workdirs: directories of two finished runs or more, with the same test examples and the same task.
    output: directory for comparison.json, comparison.html and changes.csv; "" writes none.

  Returns:
    The content of comparison.json: {"task", "primary_metric", "num_examples", "runs": [{"workdir", "backbone", primary
    metric, its interval}], "pairs": [{"first", "other", "difference", "difference_ci95", "p_value",
    "corrected_p_value", "test", "fixed", "broken", "examples", "slices"}]}.

  Raises:
    UserError: a directory holds no finished run, or the runs cannot be compared.
  """
  workdirs = [expanded(name.strip()) for name in workdirs if name.strip()]
  if len(workdirs) < 2 or len({pathlib.Path(name).resolve() for name in workdirs}) < len(workdirs):
    raise UserError(f"--workdirs={','.join(workdirs)}: give two different runs or more, with commas")
  if output and workdir_lib.Workdir(pathlib.Path(output)).config.exists():
    raise UserError(f"--workdir={output} holds a run: choose another directory for the comparison")
  if output and pathlib.Path(output).is_file():
    raise UserError(f"--workdir={output} is a file: give a directory")
  first, *others = [_read(workdir) for workdir in workdirs]
  for other in others:
    _check_same(first, other)
  metrics = first.run.task.metrics
  divisions = _divisions([first, *others])
  pairs = [_pair(first, other, divisions) for other in others]
  for pair, corrected in zip(pairs, measure.holm([pair["p_value"] for pair in pairs])):
    pair["corrected_p_value"] = float(corrected)
  result = {
    "task": first.run.task.name,
    "primary_metric": metrics.primary_metric,
    "num_examples": len(first.rows),
    "runs": [_facts(finished, metrics.primary_metric) for finished in (first, *others)],
    "pairs": pairs,
  }
  if output:
    root = pathlib.Path(output)
    files.write_json(root / RESULT, {"format": workdir_lib.FORMAT, **result})
    _write_changes(root / CHANGES, first, others)
    files.write_text(root / PAGE, comparison_page.html(result))
  return result


def _read(workdir):
  paths, _ = workdir_lib.open_run(workdir)
  try:
    metrics, task = workdir_lib.read(paths.metrics), tasks.from_config(workdir_lib.read(paths.task))
    rows = sorted(predictions.checked(paths.predictions, task.answers), key=lambda row: row["id"])
    run = Run(workdir, 0, metrics, task, tuple(row["id"] for row in rows), task.metrics.sufficient_statistics(rows))
  except (OSError, ValueError, KeyError, TypeError):
    raise UserError(f"{workdir} has no test predictions that can be read: train again") from None
  return _Finished(workdir, run, rows, np.array([task.answers.mistake(row) for row in rows]))


def _check_same(first, other):
  """Raises `UserError` if two runs have other tasks, classes or test examples."""
  one, two = first.run.task, other.run.task
  if (one.name, one.metrics.primary_metric) != (two.name, two.metrics.primary_metric):
    raise UserError(
      f"{first.workdir} is a run of --task={one.name} judged by {one.metrics.primary_title}, {other.workdir} of "
      f"--task={two.name} judged by {two.metrics.primary_title}: these cannot be compared"
    )
  if one.names != two.names:
    raise UserError(f"{first.workdir} and {other.workdir} have different classes or targets: these cannot be compared")
  different = sorted(set(first.run.ids) ^ set(other.run.ids))
  if different:
    raise UserError(
      f"{first.workdir} and {other.workdir} have different test examples (in one of them only: {len(different):,}, "
      f"e.g. {different[0]}): compare runs with the same data, --split_seed and fractions, or give both one "
      "--test_dataset"
    )
  # With several targets the column of each label begins with the name of the target.
  columns = [name for name in one.answers.columns if name == "label" or name.endswith(" label")]
  relabelled = [a["id"] for a, b in zip(first.rows, other.rows) if any(a[name] != b[name] for name in columns)]
  if relabelled:
    raise UserError(
      f"{first.workdir} and {other.workdir} have different test labels ({number_of(len(relabelled), 'example')}, e.g. "
      f"{relabelled[0]}): train both with the same --corrections"
    )


def _facts(finished, primary):
  test, config = finished.run.metrics["test"], workdir_lib.open_run(finished.workdir)[1]
  interval = test.get(f"{primary}_ci95")
  facts = {"workdir": finished.workdir, "backbone": config.backbone, "recipe": config.recipe}
  return facts | {primary: test[primary], f"{primary}_ci95": interval}


def _pair(first, other, divisions):
  """Returns what `compare` says about two runs."""
  found = compare_statistics.paired([(first.run, other.run)])
  change = other.mistakes - first.mistakes
  return {
    "first": first.workdir,
    "other": other.workdir,
    "difference": found["difference"],
    "difference_ci95": found["difference_ci95"],
    "p_value": found["p_value"],
    "test": first.run.task.metrics.test_title,
    "fixed": int(np.sum(change < 0)),
    "broken": int(np.sum(change > 0)),
    "examples": [
      _example(first, other, int(i)) for kind in (change > 0, change < 0) for i in _largest(change, kind)[:_SHOWN]
    ],
    "slices": _by_slice(first.run, other.run, divisions),
  }


def _largest(change, kind):
  """Returns the positions where `kind`, bool [n], holds, those of the largest change first."""
  positions = np.flatnonzero(kind)
  return positions[np.argsort(-np.abs(change[positions]), kind="stable")]


def _example(first, other, i):
  """Returns one changed example as comparison.json has it."""
  row, inputs = first.rows[i], [name for name in predictions.INPUTS if name in first.rows[i]]
  answers = {name: [row[name], other.rows[i][name]] for name in _compared(first, other)}
  return {
    "id": row["id"],
    "change": "broken" if other.mistakes[i] > first.mistakes[i] else "fixed",
    # A cell that both runs share stands there once.
    **{name: values[0] if values[0] == values[1] else values for name, values in answers.items()},
    **{name: row[name] for name in inputs},
  }


def _compared(*finished):
  """Returns the columns of the answers that all of the runs have; flags add others."""
  names = [name for name in finished[0].run.task.answers.columns if name != "id"]
  return [name for name in names if all(name in of_run.rows[0] for of_run in finished)]


def _divisions(finished):
  """Returns the divisions into slices that all of the runs have, over the test examples in the order of the ids."""
  cells = []
  for of_run in finished:
    path = workdir_lib.Workdir(pathlib.Path(of_run.workdir)).slices
    if not path.exists():
      return []
    with open(checksums.verified(path), newline="", encoding="utf-8") as file:
      by_id = {row.pop("id"): row for row in csv.DictReader(file)}
    if set(by_id) != set(of_run.run.ids):
      return []
    cells.append([by_id[id] for id in of_run.run.ids])
  names = [name for name in cells[0][0] if all(name in rows[0] for rows in cells)]
  return slices.divisions({name: [row[name] for row in cells[0]] for name in names}, names)


def _by_slice(first, other, divisions):
  """Returns the difference of two runs on each slice that is large enough, the worst first; p-values by Holm."""
  rows = []
  for column in divisions:
    for name in column.names():
      inside = np.flatnonzero(column.values == name)
      if len(inside) < measure.LEAST:
        continue
      one, two = (_part(run, inside) for run in (first, other))
      found = compare_statistics.paired([(one, two)])
      row = {"column": column.name, "value": name, "num_examples": len(inside)}
      rows.append(row | {key: found[key] for key in ("difference", "difference_ci95", "p_value")})
  for row, corrected in zip(rows, measure.holm([row["p_value"] for row in rows])):
    row["corrected_p_value"] = float(corrected)
  return sorted(rows, key=lambda row: row["difference"])


def _part(run, positions):
  """Returns a run on some of its test examples."""
  sums = run.statistics[positions]
  score = float(run.task.metrics.score_from_statistics(sums.sum(axis=0)))
  metrics = {"test": {run.task.metrics.primary_metric: score}}
  return dataclasses.replace(run, metrics=metrics, ids=tuple(run.ids[i] for i in positions), statistics=sums)


def _write_changes(path, first, others):
  """Writes the examples that changed, of each pair of runs."""
  inputs = [name for name in predictions.INPUTS if name in first.rows[0]]
  compared = _compared(first, *others)
  header = ["run", "id", "change", *(f"{who}_{name}" for name in compared for who in ("first", "run")), *inputs]
  rows = []
  for other in others:
    change = other.mistakes - first.mistakes
    for i in _largest(change, change != 0):
      one, two = first.rows[i], other.rows[i]
      kind = "broken" if change[i] > 0 else "fixed"
      answers = [cell for name in compared for cell in (one[name], two[name])]
      rows.append([other.workdir, one["id"], kind, *answers, *(one[name] for name in inputs)])
  predictions.write(path, header, rows)


def lines(result: dict) -> str:
  """Returns the comparison as a few lines for the terminal."""
  metrics = tasks.of_metrics(result).metrics
  told = [f"{number_of(result['num_examples'], 'test example')}, {metrics.primary_title}:"]
  for run in result["runs"]:
    score = formatting.with_interval(run, metrics.primary_metric, metrics.no_interval)
    told.append(f"  {run['workdir']}: {score}, {run['backbone']}, recipe {run['recipe']}")
  for pair in result["pairs"]:
    corrected = f", corrected {pair['corrected_p_value']:.2g}" if len(result["pairs"]) > 1 else ""
    told += [
      f"{pair['other']} against {pair['first']}: {pair['difference']:+.3f} (95 % interval "
      f"{formatting.interval(pair['difference_ci95'], '+')}), {pair['test']} p = {pair['p_value']:.2g}{corrected}",
      f"  test examples that are answered better: {pair['fixed']:,}, worse: {pair['broken']:,}",
    ]
    told += [
      f"  {'worse' if row['difference'] < 0 else 'better'} on {row['column']} = {row['value']}: "
      f"{row['difference']:+.3f}, {row['num_examples']:,} examples, corrected p = {row['corrected_p_value']:.2g}"
      for row in pair["slices"]
      if row["corrected_p_value"] <= measure.SIGNIFICANT
    ]
  return "\n".join(told)
