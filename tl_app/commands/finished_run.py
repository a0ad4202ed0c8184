"""Finished runs: their model, measured and exported again."""

import dataclasses
import logging
import pathlib

from tl_app import backbones, data, files, progress, tasks
from tl_app import workdir as workdir_lib
from tl_app.assets import Assets
from tl_app.data.splitting import splits
from tl_app.errors import UserError
from tl_app.model import inference
from tl_app.model import model as model_lib
from tl_app.serving import parity
from tl_app.tasks import statistics

log = logging.getLogger(__name__)


def restore(paths, config, assets):
  """Returns the `Model` of a workdir: the backbone loaded anew, with the weights of the selected model.

  Raises:
    UserError: plan.json or the weights are damaged, or --backbone leads to another network now.
  """
  model = rebuild(paths, config, assets)
  try:
    model.network.load_weights(paths.weights)
  except (OSError, ValueError, KeyError) as error:
    reason = " ".join(str(error).split())[:200]
    raise UserError(
      f"{paths.weights} does not fit --backbone={config.backbone} ({reason}): one of them has changed; train again"
    ) from None
  return model


def rebuild(paths, config, assets):
  """Returns the `Model` that a workdir's run started from: the backbone as it was loaded, and a fresh head.

  Raises:
    UserError: plan.json or what it says of the task is damaged.
  """
  try:
    preprocessing = workdir_lib.read(paths.plan)["preprocessing"]
    max_length, image_size = preprocessing.get("max_length", 0), preprocessing.get("image_size", config.image_size)
  except (ValueError, KeyError, TypeError, AttributeError):
    raise UserError(f"{paths.plan} is damaged: train again") from None
  try:
    task = tasks.from_config(workdir_lib.read(paths.task))
  except (ValueError, KeyError, TypeError):
    raise UserError(f"{paths.task} is damaged: train again") from None
  config = dataclasses.replace(config, image_size=image_size)
  return model_lib.load(config, backbones.resolve(config.backbone), assets, task, max_length)


def evaluate(workdir, flags, output, cache_dir="", offline=False):
  """Measures the model of a finished run and returns the metrics.

  Args:
    workdir: directory of the run.
    flags: {name: value} of data flags that were given; with "dataset", all its labelled examples are measured, else
      the run's own test split.
    output: directory for metrics.json and predictions.csv, or "".
    cache_dir, offline: as in `Config`.

  Raises:
    UserError: no finished run, other data than the run's, labels that the model does not know, or `output` is a file.
  """
  _check_output(output)
  if output and workdir_lib.Workdir(pathlib.Path(output)).plan.is_file():
    raise UserError(f"--output={output} holds a run, whose metrics.json would be replaced: choose another directory")
  paths, config, assets = opened(workdir, cache_dir, offline)
  if bool(flags.get("text_pair_column", config.text_pair_column)) != bool(config.text_pair_column):
    reads = "pairs of texts" if config.text_pair_column else "no pairs of texts"
    raise UserError(f"--text_pair_column={flags['text_pair_column']}, but the model of {workdir} reads {reads}")
  examples = data.load(dataclasses.replace(config, **_own_data(flags)), assets, known=splits.hashes(paths.splits))
  model = restore(paths, config, assets)
  if not flags.get("dataset"):
    examples = examples.take(splits.read(paths.splits, examples).test)
  if examples.modality != model.backbone.modality:
    raise UserError(
      f"--dataset={examples.source} holds {examples.modality}s, but the model of {workdir} reads "
      f"{model.backbone.modality}s"
    )
  task = model.task
  task.check_inputs(examples)
  try:
    labels = task.codec.targets(examples.labels)
  except UserError as error:
    raise UserError(f"--dataset={examples.source} does not fit the model of {workdir}: {error}") from None
  log.info("evaluating %s examples", f"{len(examples):,}")
  moving_bar = int(progress.verbosity() == 1)
  logits = inference.predict(model.network, model.backbone, examples.inputs, _batch(paths, model), verbose=moving_bar)
  metrics = {
    "test": task.metrics.compute_metrics(logits, labels),
    **task.metrics.baseline(model.task.codec.targets(splits.training_labels(paths.splits)), labels),
    "task": task.name,
    "primary_metric": task.metrics.primary_metric,
    "dataset": flags.get("dataset") or f"test split of {config.dataset}",
  }
  if output:
    directory = pathlib.Path(output)
    rows = task.answers.rows(examples.ids, examples.labels, task.answers.outputs(logits))
    statistics.write_predictions(directory / "predictions.csv", task.answers.columns, rows)
    files.write_json(directory / "metrics.json", {"format": workdir_lib.FORMAT, **metrics})
  return metrics


def export(workdir, output, cache_dir="", offline=False):
  """Exports the model of a finished run and proves it on the run's test split.

  Returns:
    (directory of the SavedModel, the result of the export check, the `Task`).
  """
  _check_output(output)
  paths, config, assets = opened(workdir, cache_dir, offline)
  directory = pathlib.Path(output) if output else paths.export
  if output and directory.exists() and not (directory / "saved_model.pb").is_file() and any(directory.iterdir()):
    raise UserError(f"--output={output} is not empty and holds no SavedModel: choose another directory")
  examples = data.load(config, assets, known=splits.hashes(paths.splits))
  test = examples.take(splits.read(paths.splits, examples).test)
  test = test.take(parity.sample(len(test)))
  model = restore(paths, config, assets)
  batch_size = _batch(paths, model)
  outputs = model.task.answers.outputs(inference.predict(model.network, model.backbone, test.inputs, batch_size))
  proof = parity.export_and_prove(model, directory, test.inputs, outputs, batch_size=batch_size)
  return directory, proof, model.task


def opened(workdir, cache_dir="", offline=False):
  """Returns (Workdir, Config, Assets) of a finished run.

  Raises:
    UserError: no finished run lies there.
  """
  paths, config = workdir_lib.open_run(workdir)
  config = dataclasses.replace(config, cache_dir=cache_dir or config.cache_dir, offline=offline or config.offline)
  return paths, config, Assets(config.cache_dir, config.offline)


def _batch(paths, model):
  """Returns the examples of a forward pass: what --batch_size=auto has found to fit, if the run had it."""
  found = workdir_lib.read(paths.plan).get("batch_size", {})
  return found["forward_pass"]["examples"] if found else inference.inference_batch(model.backbone)


def _check_output(output):
  path = pathlib.Path(output)
  nearest = next(place for place in (path, *path.parents) if place.exists())
  if output and not nearest.is_dir():
    raise UserError(f"--output={output}: {nearest} is a file: give a directory")


def _own_data(flags):
  # Another data set stands alone: the run's validation and test sets do not belong to it.
  return flags | ({"validation_dataset": "", "test_dataset": ""} if flags.get("dataset") else {})
