"""The wrong predictions of a finished run with their images."""

import pathlib

from tl_app import tasks
from tl_app import workdir as workdir_lib
from tl_app.commands import finished_run
from tl_app.errors import UserError
from tl_app.report import predictions, previews


def worst(workdir: str | pathlib.Path, most: int) -> tuple[list[str], list[str]]:
  """Returns (data URIs of thumbnails, titles) of the worst wrong predictions of the test split.

  Args:
    workdir: directory of the run.
    most: number of predictions.

  Raises:
    UserError: the run has no images, no wrong prediction, or its data are gone.
  """
  paths, config, assets = finished_run.opened(workdir)
  task = tasks.of_metrics(workdir_lib.read(paths.metrics))
  errors = predictions.worst(paths.predictions, task.answers, most)
  if errors is None or not errors.worst:
    raise UserError(f"{paths.predictions} holds no wrong prediction")
  examples = finished_run.test_examples(paths, config, assets)
  shown = previews.of(examples, {row["id"] for row in errors.worst})
  images = {id: preview["image"] for id, preview in shown.items() if "image" in preview}
  if not images:
    raise UserError(f"{workdir} holds no images: errors() shows the wrong predictions")
  return [images[row["id"]] for row in errors.worst], [_title(row) for row in errors.worst]


def _title(row):
  score = f"\nscore {float(row['score']):.2f}" if "score" in row else ""
  return f"{row['label']}, predicted {row['prediction']}{score}"
