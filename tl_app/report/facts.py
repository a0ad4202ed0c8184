"""`RunFacts`: what the files of a finished run say, read once for the report and the model card."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import numpy as np

from tl_app import tasks
from tl_app import workdir as workdir_lib
from tl_app.data.examples import Examples
from tl_app.errors import UserError
from tl_app.report import epoch_log, predictions, previews
from tl_app.tasks import Task, calibration


@dataclasses.dataclass(frozen=True)
class RunFacts:
  """What the files of a finished run say. A file that is absent is an empty dict or list.

  Attributes:
    paths: the `Workdir` of the run.
    metrics: metrics.json.
    examples: the `Examples` with the test split, or None if they are not at hand: no text or image can be shown then.
    of_selected: whether the metrics are those of the selected candidate, whose predictions are in the workdir.
  """

  paths: workdir_lib.Workdir
  metrics: dict
  examples: Examples | None = None
  of_selected: bool = True
  _previews: dict = dataclasses.field(default_factory=dict, repr=False)

  @functools.cached_property
  def task(self) -> Task:
    """The `Task`, not fitted."""
    return tasks.of_metrics(self.metrics)

  @property
  def test(self) -> dict:
    """The metrics of the test split, see `Metrics.compute_metrics`."""
    return self.metrics["test"]

  @functools.cached_property
  def config(self) -> dict:
    """config.json."""
    return read_json(self.paths.config)

  @functools.cached_property
  def plan(self) -> dict:
    """plan.json."""
    return read_json(self.paths.plan)

  @functools.cached_property
  def splits(self) -> dict:
    """splits.json."""
    return read_json(self.paths.splits)

  @functools.cached_property
  def findings(self) -> dict:
    """findings.json."""
    return read_json(self.paths.findings)

  @functools.cached_property
  def epochs(self) -> list[dict]:
    """The epochs of log.jsonl."""
    return epoch_log.read(self.paths.log)

  @property
  def has_predictions(self) -> bool:
    """Whether there is a predictions_test.csv of this model."""
    return self.of_selected and self.paths.predictions.exists()

  def of_candidate(self, test: dict) -> "RunFacts":
    """Returns the facts of a candidate that was not selected.

    Args:
      test: its metrics of the test split.
    """
    of_selected = ("validation", "candidates", "ood", "label_review")
    metrics = {name: value for name, value in self.metrics.items() if name not in of_selected}
    return dataclasses.replace(self, metrics=metrics | {"test": test}, of_selected=False)

  def predictions(self) -> Iterator[dict[str, str]]:
    """Yields the rows of predictions_test.csv, see `predictions.checked`."""
    return predictions.checked(self.paths.predictions, self.task.answers)

  @functools.cached_property
  def risk_coverage(self) -> dict | None:
    """How the share of wrong answers falls where unsure ones are withheld, see `calibration.risk_coverage`.

    From metrics.json, else from the scores in predictions_test.csv; None of a task whose answers have no score.
    """
    if "risk_coverage" in self.test:
      return self.test["risk_coverage"]
    rows = list(self.predictions()) if self.has_predictions else []
    if not rows or "score" not in rows[0]:
      return None
    right = [self.task.answers.error(row) is None for row in rows]
    return calibration.risk_coverage(np.array([float(row["score"]) for row in rows]), np.array(right))

  def previews(self, ids: set[str]) -> dict[str, dict[str, str]]:
    """Returns {id: {"text": str} or {"image": data URI}} of test examples, {} if the examples are not at hand.

    Args:
      ids: as predictions_test.csv has them.
    """
    if not self.examples:
      return {}
    # Several sections show the same examples.
    self._previews.update(previews.of(self.examples, ids - self._previews.keys()))
    return {id: self._previews[id] for id in ids}


def read(root: str | pathlib.Path, examples: Examples | None = None) -> RunFacts:
  """Returns the facts of the run in a workdir.

  Args:
    root: directory of the run.
    examples: the `Examples` with the test split, or None.

  Raises:
    UserError: metrics.json is absent or damaged.
  """
  paths = workdir_lib.Workdir(pathlib.Path(root))
  metrics = read_json(paths.metrics)
  if "test" not in metrics:
    raise UserError(f"{root} holds no metrics of a finished run (metrics.json): train first, or correct --workdir")
  return RunFacts(paths, metrics, examples)


def read_json(path: pathlib.Path) -> dict:
  """Returns a JSON file of a workdir, {} where it is absent. Raises `UserError` if it is damaged."""
  if not path.exists():
    return {}
  try:
    return workdir_lib.read(path)
  except ValueError as error:
    raise UserError(f"{path} is damaged ({error}): run the training again") from None
