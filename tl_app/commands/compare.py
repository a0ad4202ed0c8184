"""Compares recipes on one data set: one run per recipe and seed, each in a new process, and a table of their scores."""

import dataclasses
import logging
import pathlib

from tl_app import config as config_lib
from tl_app import files, tasks
from tl_app import workdir as workdir_lib
from tl_app.commands import compare_statistics, training_process
from tl_app.commands.compare_statistics import Run
from tl_app.config import Config
from tl_app.errors import RunFailed, UserError
from tl_app.errors.counts import number_of
from tl_app.files import checksums
from tl_app.report import formatting, predictions

log = logging.getLogger(__name__)

# Flags of a run that the comparison sets itself.
OWN_FLAGS = ("workdir", "recipe", "seed", "split_seed")
TABLE, RESULT = "comparison.md", "comparison.json"


def compare(config: Config, recipes: str, seeds: str) -> dict:
  """Runs every recipe with every seed, one after the other, and writes comparison.json and comparison.md.

  The workdir of a run is RECIPE-SEED in `config.workdir`, and its output is in RECIPE-SEED.log. Finished runs are not
  repeated, and interrupted ones continue.

  Args:
    config: the `Config`; its recipe and seeds are replaced.
    recipes: values of --recipe, separated by commas.
    seeds: whole numbers from 0, separated by commas; each is both --split_seed and --seed.

  Returns:
    The content of comparison.json.

  Raises:
    UserError: a list is invalid, a directory holds another run, or the first run ended with exit code 2.
  """
  names, numbers = _recipes(recipes), _seeds(seeds)
  root = pathlib.Path(config.workdir)
  configs = [
    dataclasses.replace(config, recipe=name, seed=seed, split_seed=seed, workdir=str(root / f"{name}-{seed}"))
    for name in names
    for seed in numbers
  ]
  _check_root(root)
  waiting = [c for c in configs if not _is_finished(c)]
  log.info("runs to do: %d; runs that are finished already: %d", len(waiting), len(configs) - len(waiting))
  new = not root.exists()
  try:
    root.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--workdir={root} cannot be made: {error.strerror}") from None
  runs = []
  for run_config in configs:
    run, code = _outcome(run_config, waiting)
    if code == 2 and not any(run.metrics for run in runs):
      _clean_up(run_config, new)
      raise UserError(run.failure)
    runs.append(run)
  result = {"command": _command(config, names, numbers), **compare_statistics.summarize(config, runs)}
  files.write_json(root / RESULT, result)
  files.write_text(root / TABLE, markdown(result))
  return result


def markdown(result: dict) -> str:
  """Returns comparison.md: the data, the command, the table, and the failed runs."""
  sizes = " or ".join(f"{size:,}" for size in result["test_examples"])
  different = f"{result['different_test_examples']:,} different ones over all seeds"
  titles = _titles(result)
  lines = [
    f"`{result['dataset']}`, `{result['backbone']}`; seeds {', '.join(map(str, result['seeds']))} for splitting and "
    f"training; {sizes or 'no'} test examples per seed, {different}:",
    "",
    "```bash",
    result["command"],
    "```",
    "",
    f"| {' | '.join(titles)} |",
    f"| {' | '.join(['---'] * len(titles))} |",
    *(f"| {' | '.join(_cells(row, len(result['seeds']), len(titles)))} |" for row in result["rows"]),
  ]
  if result["failed"]:
    lines += ["", *(f"- `{run['recipe']}`, seed {run['seed']} failed: {run['line']}" for run in result["failed"])]
  return "\n".join(lines) + "\n"


def _titles(result):
  """Returns the titles of the table's columns."""
  metrics = tasks.of_metrics(result).metrics
  return [
    "recipe",
    f"test {metrics.primary_title}: mean (95 % interval)",
    "each seed",
    *metrics.secondary_titles.values(),
    "selected",
    "validation: probe, fine-tuned",
    "probe, test",
    "difference (95 % interval)",
    "only the probe right, only the recipe right (p)" if metrics.counts_right_answers else f"p, {metrics.test_title}",
    "seconds per run",
  ]


def _cells(row, seeds, columns):
  name = f"`{row['recipe']}`"
  if not row["seeds"]:
    return [name, "failed", *[""] * (columns - 2)]
  finished = f"; {len(row['seeds'])} of {seeds} seeds" if len(row["seeds"]) < seeds else ""
  span = formatting.interval(row["ci95"]) if row["ci95"] else "too few right or wrong"
  return [
    name,
    f"{row['mean']:.3f} ({span}{finished})",
    ", ".join(f"{score:.3f}" for score in row["each"]),
    *(f"{value:.3f}" for value in row["other"].values()),
    ", ".join(formatting.candidate(name) for name in row["selected"]),
    ", ".join(f"{score:.3f}" for score in row["validation"].values()),
    *_paired_cells(row),
    f"{row['seconds']:.0f}",
  ]


def _paired_cells(row):
  if "difference" not in row:
    return [""] * 3
  p = f"{row['p_value']:.2g}"
  return [
    f"{row['probe_mean']:.3f}",
    f"{row['difference']:+.3f} ({formatting.interval(row['difference_ci95'], '+')})",
    f"{row['only_probe_right']}, {row['only_recipe_right']} ({p})" if "only_probe_right" in row else p,
  ]


def require_all(result: dict) -> None:
  """Raises `RunFailed` if a run of the comparison failed."""
  failed = result["failed"]
  if failed:
    names = ", ".join(f"{run['recipe']}-{run['seed']}" for run in failed)
    which = number_of(len(failed), "run")
    raise RunFailed(f"{which} failed ({names}): {failed[0]['line']}; the same command tries again")


def _recipes(text):
  known = config_lib.FIELDS["recipe"].metadata["choices"]
  names = _items("recipes", text)
  for name in names:
    if name not in known:
      raise UserError(f"--recipes={text}: {name} is not one of {', '.join(known)}{config_lib.suggestion(name, known)}")
  return names


def _seeds(text):
  items = _items("seeds", text)
  for item in items:
    if not (item.isascii() and item.isdigit()):
      raise UserError(f"--seeds={text}: {item} is not a whole number from 0; use numbers with commas, like 0,1,2")
  return [int(item) for item in items]


def _items(name, text):
  items = list(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
  if not items:
    raise UserError(f"--{name} is empty: use a list with commas")
  return items


def _check_root(root):
  if root.is_file():
    raise UserError(f"--workdir={root} is a file: give a directory")
  if workdir_lib.Workdir(root).config.exists():
    raise UserError(f"--workdir={root} holds a run: choose another directory for the comparison")


def _is_finished(config):
  """Returns whether the workdir of `config` holds its finished run.

  Raises:
    UserError: it holds a finished run with other flags.
  """
  try:
    _, earlier = workdir_lib.open_run(config.workdir)
  except checksums.ChecksumError:
    # Its files may still be of use: it is not trained again.
    raise
  except UserError:
    return False
  names = config_lib.differing(earlier, config)
  if names:
    raise UserError(
      f"{config.workdir} holds a run with --{names[0]}={getattr(earlier, names[0])}, not "
      f"{getattr(config, names[0])}: choose another --workdir or delete it"
    )
  return True


def _outcome(config, waiting):
  """Returns (`Run`, exit code) of one config. It is trained if it is in `waiting` and no other process has done so."""
  run, code = Run(config.recipe, config.seed), 0
  if config in waiting and not _is_finished(config):
    log.info("run %d of %d: %s", waiting.index(config) + 1, len(waiting), config.workdir)
    code, run.failure = _train(config)
  if code:
    log.info("%s failed: %s", config.workdir, run.failure)
    return run, code
  paths = workdir_lib.Workdir(pathlib.Path(config.workdir))
  run.metrics, run.task = workdir_lib.read(paths.metrics), tasks.from_config(workdir_lib.read(paths.task))
  rows = dict(sorted((row["id"], row) for row in predictions.read(paths.predictions)))
  run.ids, run.statistics = tuple(rows), run.task.metrics.sufficient_statistics(list(rows.values()))
  title = run.task.metrics.primary_title
  log.info("%s: test %s %.4f, %s is selected", config.workdir, title, run.score, run.metrics["selected"])
  return run, 0


def _train(config):
  """Trains in a new process; returns (exit code, last line)."""
  output = _output(config)
  output.unlink(missing_ok=True)
  process = training_process.start("tl_app.train", formatting.given_flags(dataclasses.asdict(config)), output)
  code = training_process.exit_code(process)
  return code, training_process.failure(code, output) if code else ""


def _clean_up(config, new):
  """Deletes the files of a first run that ended with exit code 2: its log, and the directory if it is `new`."""
  output = _output(config)
  output.unlink(missing_ok=True)
  if new and not any(output.parent.iterdir()):
    output.parent.rmdir()


def _output(config):
  return pathlib.Path(f"{config.workdir}.log")


def _command(config, names, numbers):
  lists = [f"--recipes={','.join(names)}", f"--seeds={','.join(map(str, numbers))}", f"--workdir={config.workdir}"]
  return formatting.command("tl_app.compare", [*formatting.given_flags(dataclasses.asdict(config), OWN_FLAGS), *lists])
