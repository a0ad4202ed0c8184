"""A table of recipes on one data set: a run a seed in a fresh process each, intervals over seeds and test examples."""

import csv
import dataclasses
import logging
import pathlib
import shlex
import subprocess
import sys

import numpy as np

from tl_app import config as config_lib
from tl_app import evaluation, files, tasks
from tl_app import workdir as workdir_lib
from tl_app.errors import RunFailed, UserError

log = logging.getLogger(__name__)

# What a comparison decides in place of the flags of a run.
OWN = ("workdir", "recipe", "seed", "split_seed")
TABLE, FIGURES = "comparison.md", "comparison.json"
_CHUNK = 100
_COLUMNS = (
  "recipe",
  "test accuracy: mean (95 % interval)",
  "each seed",
  "macro F1",
  "ships",
  "validation: probe, fine-tuned",
  "probe, test",
  "difference (95 % interval)",
  "right: probe alone, recipe alone (p)",
  "seconds a run",
)


@dataclasses.dataclass
class Run:
  """One recipe with one seed.

  Attributes:
    recipe, seed: which.
    metrics: the content of its metrics.json, or None where it failed.
    right: {id of a test example: whether the answer was right}.
    failure: the last line that it said, or "".
  """

  recipe: str
  seed: int
  metrics: dict | None = None
  right: dict = dataclasses.field(default_factory=dict)
  failure: str = ""


def compare(config, recipes, seeds):
  """Runs every recipe with every seed, one after the other, and writes comparison.json and comparison.md.

  A run lies in RECIPE-SEED below `config.workdir`, what it said in RECIPE-SEED.log. A finished one is not run again.

  Args:
    config: `Config`; its recipe and seeds are replaced.
    recipes: names of --recipe with commas.
    seeds: numbers with commas, each both --split_seed and --seed.

  Returns:
    The content of comparison.json.

  Raises:
    UserError: a list is wrong, a directory holds another run, or the first run was refused.
  """
  names, numbers = _recipes(recipes), _seeds(seeds)
  if config.task != "auto":
    _need_accuracy(config.task)
  root = pathlib.Path(config.workdir)
  configs = [
    dataclasses.replace(config, recipe=name, seed=seed, split_seed=seed, workdir=str(root / f"{name}-{seed}"))
    for name in names
    for seed in numbers
  ]
  _check_root(root)
  waiting = [c for c in configs if not _is_finished(c)]
  log.info("%d runs: %d finished before, %d to do", len(configs), len(configs) - len(waiting), len(waiting))
  new = not root.exists()
  try:
    root.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--workdir={root} cannot be made: {error.strerror}") from None
  runs = []
  for run_config in configs:
    run, code = _outcome(run_config, waiting)
    if code == 2 and not any(run.metrics for run in runs):
      _forget(run_config, new)
      raise UserError(run.failure)
    runs.append(run)
  result = {"command": _command(config, names, numbers), **summarize(config, runs)}
  files.write_json(root / FIGURES, result)
  files.write_text(root / TABLE, markdown(result))
  return result


def summarize(config, runs):
  """Returns the figures of comparison.json, all but the command.

  Args:
    config: gives data set and backbone.
    runs: `Run`s, recipe by recipe.
  """
  done = [run for run in runs if run.metrics]
  probes = {run.seed: run for run in done if run.recipe == "probe"}
  return {
    "dataset": config.dataset,
    "backbone": config.backbone,
    "seeds": list(dict.fromkeys(run.seed for run in runs)),
    "test_examples": sorted({len(run.right) for run in done}),
    "different_test_examples": len(set().union(*(run.right for run in done))),
    "rows": [
      _row(recipe, [run for run in done if run.recipe == recipe], probes)
      for recipe in dict.fromkeys(run.recipe for run in runs)
    ],
    "failed": [{"recipe": run.recipe, "seed": run.seed, "line": run.failure} for run in runs if not run.metrics],
  }


def _row(recipe, runs, probes):
  """Returns the figures of one recipe; {"recipe", "seeds": []} where no run of it finished."""
  row = {"recipe": recipe, "seeds": [run.seed for run in runs]}
  if not runs:
    return row
  accuracies = [run.metrics["test"]["accuracy"] for run in runs]
  row |= {
    "accuracy": float(np.mean(accuracies)),
    "accuracy_ci95": accuracy_interval([run.right for run in runs]),
    "accuracy_range": [min(accuracies), max(accuracies)],
    "accuracies": accuracies,
    "macro_f1": float(np.mean([run.metrics["test"]["macro_f1"] for run in runs])),
    "rungs": [run.metrics["rung"] for run in runs],
    "validation": _validation([run.metrics["rungs"] for run in runs]),
    "seconds": float(np.mean([sum(run.metrics["seconds"].values()) for run in runs])),
  }
  return row | paired([(probes[run.seed], run) for run in runs if run.seed in probes and recipe != "probe"])


def _validation(rungs):
  """Returns {"probe", "fine_tuned"}: mean validation accuracies, of the better of final and averaged weights."""
  tuned = [
    max(r[name]["accuracy"] for name in ("fine_tuned", "averaged") if name in r) for r in rungs if "fine_tuned" in r
  ]
  return {"probe": float(np.mean([r["probe"]["accuracy"] for r in rungs]))} | (
    {"fine_tuned": float(np.mean(tuned))} if tuned else {}
  )


def paired(pairs):
  """Compares a recipe with the probe on the same test examples, seed by seed.

  Args:
    pairs: [(`Run` of the probe, `Run` of the recipe)], one a seed.

  Returns:
    {"probe_accuracy", "difference", "difference_ci95", "only_probe_right", "only_recipe_right", "p_value"}: means over
    the seeds, and McNemar's exact test on the examples that only one of the two got right, counted over all seeds. An
    example in the test split of several seeds counts in each, as if it were another: the p-value is then a little too
    small, the interval is not. {} without a pair, or where the two were measured on different examples.
  """
  if not pairs or any(probe.right.keys() != run.right.keys() for probe, run in pairs):
    return {}
  differences = [{i: int(run.right[i]) - int(probe.right[i]) for i in run.right} for probe, run in pairs]
  both = np.array([(probe.right[i], run.right[i]) for probe, run in pairs for i in run.right], dtype=bool)
  return {
    "probe_accuracy": float(np.mean([probe.metrics["test"]["accuracy"] for probe, _ in pairs])),
    "difference": float(np.mean([np.mean(list(d.values())) for d in differences])),
    "difference_ci95": interval(differences),
    "only_probe_right": int(np.sum(both[:, 0] & ~both[:, 1])),
    "only_recipe_right": int(np.sum(~both[:, 0] & both[:, 1])),
    "p_value": evaluation.mcnemar(both[:, 0], both[:, 1]),
  }


def accuracy_interval(rights):
  """Returns the 95 % interval [low, high] of the mean accuracy over seeds: `interval`.

  With fewer than ten right or ten wrong answers it is widened to that of one test split with all the different
  examples, which is Wilson's there.

  Args:
    rights: [{id: bool}], the test split of each seed.
  """
  low, high = interval(rights)
  right = sum(sum(r.values()) for r in rights)
  count = sum(len(r) for r in rights)
  if min(right, count - right) >= evaluation.FEW:
    return [low, high]
  different = len(set().union(*rights))
  least, most = evaluation.accuracy_interval(round(right / count * different), different)
  return [min(low, least), max(high, most)]


def interval(outcomes, seed=0):
  """Returns the 95 % interval [low, high] of the mean over seeds of each seed's mean outcome.

  The pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1(2)), for two crossed causes of chance: seeds are
  drawn with replacement, and test examples get Poisson(1) weights, one weight an example in whichever seeds' splits it
  is. So it holds where every seed has the same test split, whose chance does not average out over seeds, and where
  splits differ or overlap; there it is up to the square root of two too wide, since the chance of the examples shows
  between the seeds once more. Of the seeds it knows only what the few that ran show: with one seed it is the bootstrap
  of that test split. A t interval over three seeds would reach 2.5 of their standard deviations to each side and would
  not see that a test split is shared.

  Args:
    outcomes: [{id of a test example: number}], one a seed.
    seed: seed of the resamples.
  """
  ids = {example: position for position, example in enumerate(dict.fromkeys(i for o in outcomes for i in o))}
  values, present = np.zeros((2, len(ids), len(outcomes)), np.float32)
  for column, outcome in enumerate(outcomes):
    rows = [ids[example] for example in outcome]
    values[rows, column], present[rows, column] = list(outcome.values()), 1.0
  rng = np.random.default_rng(seed)
  means = []
  for _ in range(evaluation.RESAMPLES // _CHUNK):
    weights = rng.poisson(1.0, size=(_CHUNK, len(ids))).astype(np.float32)
    draws = rng.multinomial(len(outcomes), [1 / len(outcomes)] * len(outcomes), size=_CHUNK)
    each = (weights @ values) / np.maximum(weights @ present, 1.0)
    means.append((draws * each).sum(axis=1) / len(outcomes))
  return [float(value) for value in np.percentile(np.concatenate(means), [2.5, 97.5])]


def markdown(result):
  """Returns comparison.md: what was compared and by which command, the table, and what failed."""
  sizes = " or ".join(f"{size:,}" for size in result["test_examples"])
  different = f"{result['different_test_examples']:,} different ones over the seeds"
  lines = [
    f"`{result['dataset']}`, `{result['backbone']}`; seeds {', '.join(map(str, result['seeds']))}, each of split and "
    f"training; {sizes or 'no'} test examples a seed, {different}:",
    "",
    "```bash",
    result["command"],
    "```",
    "",
    f"| {' | '.join(_COLUMNS)} |",
    f"| {' | '.join(['---'] * len(_COLUMNS))} |",
    *(f"| {' | '.join(_cells(row, len(result['seeds'])))} |" for row in result["rows"]),
  ]
  if result["failed"]:
    lines += ["", *(f"- `{run['recipe']}`, seed {run['seed']} failed: {run['line']}" for run in result["failed"])]
  return "\n".join(lines) + "\n"


def _cells(row, seeds):
  name = f"`{row['recipe']}`"
  if not row["seeds"]:
    return [name, "failed", *[""] * (len(_COLUMNS) - 2)]
  counted = f"; {len(row['seeds'])} of {seeds} seeds" if len(row["seeds"]) < seeds else ""
  return [
    name,
    f"{row['accuracy']:.3f} ({_span(row['accuracy_ci95'])}{counted})",
    ", ".join(f"{accuracy:.3f}" for accuracy in row["accuracies"]),
    f"{row['macro_f1']:.3f}",
    ", ".join(row["rungs"]),
    ", ".join(f"{accuracy:.3f}" for accuracy in row["validation"].values()),
    *_paired_cells(row),
    f"{row['seconds']:.0f}",
  ]


def _paired_cells(row):
  if "difference" not in row:
    return [""] * 3
  return [
    f"{row['probe_accuracy']:.3f}",
    f"{row['difference']:+.3f} ({_span(row['difference_ci95'], '+')})",
    f"{row['only_probe_right']}, {row['only_recipe_right']} ({row['p_value']:.2g})",
  ]


def _span(bounds, sign=""):
  return " to ".join(f"{bound:{sign}.3f}" for bound in bounds)


def require_all(result):
  """Raises `RunFailed` where a run of the comparison failed."""
  failed = result["failed"]
  if failed:
    names = ", ".join(f"{run['recipe']}-{run['seed']}" for run in failed)
    raise RunFailed(f"{len(failed)} runs failed ({names}): {failed[0]['line']}; the same command tries them again")


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
      raise UserError(f"--seeds={text}: {item} is not a whole number from 0; give numbers with commas, like 0,1,2")
  return [int(item) for item in items]


def _items(name, text):
  items = list(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
  if not items:
    raise UserError(f"--{name} is empty: give a list with commas")
  return items


def _check_root(root):
  if root.is_file():
    raise UserError(f"--workdir={root} is a file: give a directory")
  if workdir_lib.Workdir(root).config.exists():
    raise UserError(f"--workdir={root} holds a run: choose another directory for the comparison")


def _is_finished(config):
  """Whether the workdir of `config` holds its finished run.

  Raises:
    UserError: it holds the finished run of other flags.
  """
  try:
    _, earlier = workdir_lib.open_run(config.workdir)
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
  """Returns (`Run`, exit code) of one config, which runs now if it is among `waiting`."""
  run, code = Run(config.recipe, config.seed), 0
  if config in waiting:
    log.info("run %d of %d: %s", waiting.index(config) + 1, len(waiting), config.workdir)
    code, run.failure = _train(config)
  if code:
    log.info("%s failed: %s", config.workdir, run.failure)
    return run, code
  paths = workdir_lib.Workdir(pathlib.Path(config.workdir))
  run.metrics = files.read_json(paths.metrics)
  _need_accuracy(tasks.of(run.metrics).name)
  run.right = _right(paths.predictions)
  log.info("%s: test accuracy %.4f, %s ships", config.workdir, run.metrics["test"]["accuracy"], run.metrics["rung"])
  return run, 0


def _need_accuracy(name):
  """Raises `UserError` for the name of a task whose answers are not right or wrong as a whole."""
  if tasks.TASKS[name].score != "accuracy":
    raise UserError(
      f"the comparison is of accuracies, but --task={name} is measured by {tasks.TASKS[name].score}: compare "
      "metrics.json of single runs"
    )


def _train(config):
  """Trains in a fresh process, which frees its memory and may choose its devices; returns (exit code, last line)."""
  said = pathlib.Path(f"{config.workdir}.log")
  with open(said, "w", encoding="utf-8") as file:
    command = [sys.executable, "-m", "tl_app.train", *flags(config)]
    code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
  lines = said.read_text(encoding="utf-8", errors="replace").split("\n")
  last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
  return code, last.strip().removeprefix("tl_app: ") if code else ""


def _forget(config, new):
  """Removes what a refused first run left: its log, and the directory where it is `new`."""
  said = pathlib.Path(f"{config.workdir}.log")
  said.unlink(missing_ok=True)
  if new and not any(said.parent.iterdir()):
    said.parent.rmdir()


def _right(path):
  """Returns {id: whether the prediction is the label} of a predictions_test.csv."""
  with open(path, encoding="utf-8", newline="") as file:
    return {row["id"]: row["label"] == row["prediction"] for row in csv.DictReader(file)}


def flags(config, but=()):
  """Returns the command line of `config`: a flag for each field that is not its default and not in `but`."""
  given = []
  for name, field in config_lib.FIELDS.items():
    value = getattr(config, name)
    if value != field.default and name not in but:
      given.append(f"--{'' if value else 'no'}{name}" if isinstance(value, bool) else f"--{name}={value}")
  return given


def _command(config, names, numbers):
  lists = [f"--recipes={','.join(names)}", f"--seeds={','.join(map(str, numbers))}", f"--workdir={config.workdir}"]
  return shlex.join(["python", "-m", "tl_app.compare", *flags(config, OWN), *lists])
