"""Metrics over runs of one recipe with several seeds: means, intervals, and the paired test against the probe."""

import dataclasses

import numpy as np

from tl_app import tasks
from tl_app.tasks import statistics
from tl_app.tasks.task import Task

# Resamples at a time.
_CHUNK = 100


@dataclasses.dataclass
class Run:
  """One recipe with one seed.

  Attributes:
    recipe, seed: which.
    metrics: the content of its metrics.json, or None where it failed.
    task: the `Task`, or None.
    ids: of the test examples, sorted.
    statistics: float [len(ids), k], see `Metrics.sufficient_statistics`.
    failure: the last line that the run printed, or "".
  """

  recipe: str
  seed: int
  metrics: dict | None = None
  task: Task | None = None
  ids: tuple = ()
  statistics: np.ndarray | None = None
  failure: str = ""

  @property
  def score(self):
    """The primary metric on the test split."""
    return self.metrics["test"][self.task.metrics.primary_metric]

  def scores(self, weights):
    """Returns the scores [rounds] of the test split with its examples weighted, float [rounds, len(ids)]."""
    return self.task.metrics.score_from_statistics(weights @ self.statistics)


def summarize(config, runs):
  """Returns the figures of comparison.json, all but the command.

  Args:
    config: gives data set and backbone.
    runs: `Run`s, recipe by recipe.
  """
  done = [run for run in runs if run.metrics]
  probes = {run.seed: run for run in done if run.recipe == "probe"}
  task = done[0].task if done else tasks.SINGLE_LABEL
  return {
    "dataset": config.dataset,
    "backbone": config.backbone,
    "task": task.name,
    "primary_metric": task.metrics.primary_metric,
    "seeds": list(dict.fromkeys(run.seed for run in runs)),
    "test_examples": sorted({len(run.ids) for run in done}),
    "different_test_examples": len(set().union(*(run.ids for run in done))),
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
  scores, task = [run.score for run in runs], runs[0].task
  row |= {
    "mean": float(np.mean(scores)),
    "ci95": score_interval(runs),
    "range": [min(scores), max(scores)],
    "each": scores,
    "other": {key: float(np.mean([run.metrics["test"][key] for run in runs])) for key in task.metrics.secondary_titles},
    "selected": [run.metrics["selected"] for run in runs],
    "validation": _validation([run.metrics["candidates"] for run in runs], task.metrics.primary_metric),
    "seconds": float(np.mean([sum(run.metrics["seconds"].values()) for run in runs])),
  }
  return row | paired([(probes[run.seed], run) for run in runs if run.seed in probes and recipe != "probe"])


def _validation(rungs, score):
  """Returns {"probe", "fine_tuned"}: mean validation scores, of the better of final and averaged weights."""
  tuned = [max(r[name][score] for name in ("fine_tuned", "averaged") if name in r) for r in rungs if "fine_tuned" in r]
  return {"probe": float(np.mean([r["probe"][score] for r in rungs]))} | (
    {"fine_tuned": float(np.mean(tuned))} if tuned else {}
  )


def paired(pairs):
  """Compares a recipe with the probe on the same test examples, seed by seed.

  Args:
    pairs: [(`Run` of the probe, `Run` of the recipe)], one a seed.

  Returns:
    {"probe_mean", "difference", "difference_ci95", "p_value"}: means over the seeds. The test is McNemar's exact one
    where the score is accuracy, with "only_probe_right" and "only_recipe_right", the examples that only one of the two
    got right, counted over all seeds; else the randomisation test. An example in the test split of several seeds
    counts in each, as if it were another: the p-value is then too small, the interval is not. Of 150 simulated
    comparisons without a difference, three seeds on one test split, 10 to 41 had p < 0.05, the more the more an
    example's answers agree over the seeds; 2 to 6 intervals left 0 out. {} without a pair, or where the two were
    measured on different examples.
  """
  if not pairs or any(probe.ids != run.ids for probe, run in pairs):
    return {}
  found = {
    "probe_mean": float(np.mean([probe.score for probe, _ in pairs])),
    "difference": float(np.mean([run.score - probe.score for probe, run in pairs])),
    "difference_ci95": interval(
      [
        (run.ids, lambda weights, pair=(probe, run): pair[1].scores(weights) - pair[0].scores(weights))
        for probe, run in pairs
      ]
    ),
  }
  if not pairs[0][1].task.metrics.counts_right_answers:
    tested = [(probe.statistics, run.statistics, run.task.metrics.score_from_statistics) for probe, run in pairs]
    return found | {"p_value": statistics.randomisation(tested)}
  probe, recipe = (np.concatenate([pair[i].statistics[:, 0] > 0 for pair in pairs]) for i in (0, 1))
  return found | {
    "only_probe_right": int(np.sum(probe & ~recipe)),
    "only_recipe_right": int(np.sum(~probe & recipe)),
    "p_value": statistics.mcnemar(probe, recipe),
  }


def score_interval(runs):
  """Returns the 95 % interval [low, high] of the mean score over `Run`s of several seeds: `interval`.

  Where one of them has no interval of its own, since too few answers are right or wrong, it is None; but that of an
  accuracy is then widened to that of one test split with all the different examples, which is Wilson's there.
  """
  found = interval([(run.ids, run.scores) for run in runs])
  metrics = runs[0].task.metrics
  if not metrics.counts_right_answers:
    return None if any(run.metrics["test"].get(f"{metrics.primary_metric}_ci95") is None for run in runs) else found
  right, count = (sum(float(run.statistics[:, i].sum()) for run in runs) for i in (0, 1))
  if min(right, count - right) >= statistics.FEW:
    return found
  different = len(set().union(*(run.ids for run in runs)))
  least, most = statistics.accuracy_interval(round(right / count * different), different)
  return [min(found[0], least), max(found[1], most)]


def interval(measured, seed=0):
  """Returns the 95 % interval [low, high] of the mean over seeds of a figure of each seed's test split.

  The pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1(2)), for two crossed causes of chance: seeds are
  drawn with replacement, and test examples get Poisson(1) weights, one weight an example in whichever seeds' splits it
  is. So it holds where every seed has the same test split, whose chance does not average out over seeds, and where
  splits differ or overlap; there it is up to the square root of two too wide, since the chance of the examples shows
  between the seeds once more. Of the seeds it knows only what the few that ran show: with one seed it is the bootstrap
  of that test split. A t interval over three seeds would reach 2.5 of their standard deviations to each side and would
  not see that a test split is shared.

  Args:
    measured: [(ids, function)], one a seed: of its test examples, and weights of them, float [rounds, examples], ->
      figures [rounds].
    seed: seed of the resamples.
  """
  place = {example: position for position, example in enumerate(dict.fromkeys(i for ids, _ in measured for i in ids))}
  columns = [np.array([place[example] for example in ids]) for ids, _ in measured]
  rng, means = np.random.default_rng(seed), []
  for _ in range(statistics.RESAMPLES // _CHUNK):
    weights = rng.poisson(1.0, size=(_CHUNK, len(place))).astype(np.float64)
    draws = rng.multinomial(len(measured), [1 / len(measured)] * len(measured), size=_CHUNK)
    each = np.stack([figure(weights[:, own]) for own, (_, figure) in zip(columns, measured)], axis=1)
    means.append((draws * each).sum(axis=1) / len(measured))
  return statistics.percentiles(np.concatenate(means))
