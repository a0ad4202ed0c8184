"""Statistics over runs of one recipe with several seeds: means, intervals, and the paired test against the probe."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tl_app import tasks
from tl_app.config import Config
from tl_app.tasks import statistics
from tl_app.tasks.task import Task

# Bootstrap resamples computed at a time.
_CHUNK = 100


@dataclasses.dataclass
class Run:
  """One run of a comparison.

  Attributes:
    recipe: value of --recipe.
    seed: value of --seed and --split_seed.
    metrics: the content of metrics.json; None if the run failed.
    task: the `Task`; None if the run failed.
    ids: ids of the test examples, sorted.
    statistics: float [len(ids), k], see `Metrics.sufficient_statistics`.
    failure: the last line that a failed run printed, or "".
  """

  recipe: str
  seed: int
  metrics: dict | None = None
  task: Task | None = None
  ids: tuple = ()
  statistics: np.ndarray | None = None
  failure: str = ""

  @property
  def score(self) -> float:
    """The primary metric on the test split."""
    return self.metrics["test"][self.task.metrics.primary_metric]

  def scores(self, weights: np.ndarray) -> np.ndarray:
    """Returns the score of the weighted test split, float [rounds].

    Args:
      weights: float [rounds, len(ids)], weights of the test examples.
    """
    return self.task.metrics.score_from_statistics(weights @ self.statistics)


def summarize(config: Config, runs: Sequence[Run]) -> dict:
  """Returns the content of comparison.json without the command.

  Args:
    config: the `Config`, for the names of data set and backbone.
    runs: the runs, recipe by recipe.
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
  """Returns the results of one recipe; {"recipe", "seeds": []} if all its runs failed."""
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


def _validation(candidates, score):
  """Returns {"probe", "fine_tuned"}: mean validation scores over runs; "fine_tuned" is the better of two candidates.

  Args:
    candidates: the "candidates" in metrics.json of each run.
    score: name of the primary metric.
  """
  scores = [{name: values[score] for name, values in of_run.items()} for of_run in candidates]
  tuned = [max(s["fine_tuned"], s.get("averaged", s["fine_tuned"])) for s in scores if "fine_tuned" in s]
  means = {"probe": float(np.mean([s["probe"] for s in scores]))}
  return means | ({"fine_tuned": float(np.mean(tuned))} if tuned else {})


def paired(pairs: Sequence[tuple[Run, Run]]) -> dict:
  """Compares a recipe with the probe on the same test examples, seed by seed.

  Args:
    pairs: [(run of the probe, run of the recipe)], one pair per seed.

  Returns:
    {"probe_mean", "difference", "difference_ci95", "p_value"}, means over the seeds; {} without a pair, or if the two
    runs of a pair have different test examples.

    If the primary metric is accuracy, the p-value is that of McNemar's exact test, and "only_probe_right" and
    "only_recipe_right" count the examples that only one of the two got right, over all seeds. For other metrics it is
    that of the randomisation test.

    An example in the test splits of several seeds counts once per seed, so the p-value is too small then; the interval
    is not affected. In 150 simulated comparisons without a difference, with three seeds on one test split, 10 to 41 had
    p < 0.05, more if the seeds agreed on more examples; 2 to 6 intervals did not contain 0.
  """
  if not pairs or any(probe.ids != run.ids for probe, run in pairs):
    return {}
  comparison = {
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
    return comparison | {"p_value": statistics.randomisation(tested)}
  probe, recipe = (np.concatenate([pair[i].statistics[:, 0] > 0 for pair in pairs]) for i in (0, 1))
  return comparison | {
    "only_probe_right": int(np.sum(probe & ~recipe)),
    "only_recipe_right": int(np.sum(~probe & recipe)),
    "p_value": statistics.mcnemar(probe, recipe),
  }


def score_interval(runs: Sequence[Run]) -> list[float] | None:
  """Returns the 95 % interval [low, high] of the mean score over runs with several seeds, see `interval`.

  It is None if one of the runs has no interval because too few answers are right or wrong. The interval of an accuracy
  is widened instead, to Wilson's interval for one test split of all distinct examples.
  """
  bootstrap = interval([(run.ids, run.scores) for run in runs])
  metrics = runs[0].task.metrics
  if not metrics.counts_right_answers:
    return None if any(run.metrics["test"].get(f"{metrics.primary_metric}_ci95") is None for run in runs) else bootstrap
  right, count = (sum(float(run.statistics[:, i].sum()) for run in runs) for i in (0, 1))
  if min(right, count - right) >= statistics.FEW:
    return bootstrap
  distinct = len(set().union(*(run.ids for run in runs)))
  low, high = statistics.accuracy_interval(round(right / count * distinct), distinct)
  return [min(bootstrap[0], low), max(bootstrap[1], high)]


def interval(measured: Sequence[tuple[Sequence, Callable]], seed: int = 0) -> list[float]:
  """Returns the 95 % interval [low, high] of the mean over seeds of a metric of the test splits.

  The pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1(2)), for two crossed sources of variance: seeds
  are sampled with replacement, and test examples get Poisson(1) weights, the same in the splits of all seeds. The
  interval is valid if every seed has the same test split, whose variance does not average out over seeds, and if the
  splits differ or overlap. If they differ, it is up to the square root of two too wide, because the variance of the
  examples also shows between the seeds. With one seed it is the bootstrap of that test split. A t interval over three
  seeds would be 2.5 of their standard deviations wide on each side and would not account for a shared test split.

  Args:
    measured: [(ids, function)], one pair per seed: the ids of its test examples, and a function from weights of these
      examples, float [rounds, examples], to the metric, float [rounds].
    seed: seed of the resamples.
  """
  position_of = {
    example: position for position, example in enumerate(dict.fromkeys(i for ids, _ in measured for i in ids))
  }
  columns = [np.array([position_of[example] for example in ids]) for ids, _ in measured]
  rng, means = np.random.default_rng(seed), []
  for _ in range(statistics.RESAMPLES // _CHUNK):
    weights = rng.poisson(1.0, size=(_CHUNK, len(position_of))).astype(np.float64)
    draws = rng.multinomial(len(measured), [1 / len(measured)] * len(measured), size=_CHUNK)
    scores = np.stack([metric(weights[:, column]) for column, (_, metric) in zip(columns, measured)], axis=1)
    means.append((draws * scores).sum(axis=1) / len(measured))
  return statistics.percentiles(np.concatenate(means))
