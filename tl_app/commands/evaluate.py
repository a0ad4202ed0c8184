"""Evaluates the model of a finished run on its own test split, or on other labelled data."""

import dataclasses
import logging
import pathlib
import types
from collections.abc import Mapping

import numpy as np

from tl_app import data, files
from tl_app import workdir as workdir_lib
from tl_app.commands import finished_run
from tl_app.data.examples import Examples
from tl_app.data.splitting import splits
from tl_app.data.splitting.image_index import DecodedImageIndex
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.model import inference
from tl_app.model.model import Model
from tl_app.report import predictions, slices
from tl_app.terminal import progress
from tl_app.training import out_of_distribution
from tl_app.training.answered import Answered

log = logging.getLogger(__name__)


def evaluate(
  workdir: str | pathlib.Path, flags: dict, output: str, downloads: Mapping = types.MappingProxyType({})
) -> dict:
  """Evaluates the model of a finished run and returns the metrics.

  Args:
    workdir: directory of the run.
    flags: {name: value} of the data flags that were given. With "dataset", all its labelled examples are evaluated;
      without it, the run's own test split.
    output: directory for metrics.json, predictions.csv and slices.csv; "" writes neither.
    downloads: as of `finished_run.opened`.

  Returns:
    {"test": metrics, "task", "primary_metric", "dataset", and the baseline's metrics}.

  Raises:
    UserError: there is no finished run, the data do not fit its model, or `output` is a file.
  """
  finished_run.check_output(output)
  if output and workdir_lib.Workdir(pathlib.Path(output)).plan.is_file():
    raise UserError(f"--output={output} holds a run, whose metrics.json would be replaced: choose another directory")
  paths, config, assets = finished_run.opened(workdir, downloads)
  if bool(flags.get("text_pair_column", config.text_pair_column)) != bool(config.text_pair_column):
    reads = "pairs of texts" if config.text_pair_column else "no pairs of texts"
    raise UserError(f"--text_pair_column={flags['text_pair_column']}, but the model of {workdir} reads {reads}")
  data_config = finished_run.data_config(paths, config, flags)
  examples = _examples(paths, data_config, flags, assets)
  model = finished_run.restore(paths, config, assets)
  task = model.task
  labels = _targets(examples, model, workdir)
  if flags.get("dataset"):
    _warn_of_known(examples, paths)
  batch_size = finished_run.inference_batch(paths, model)
  with progress.examples("evaluating", len(examples)):
    logits = inference.predict(model.network, model.backbone, examples.inputs, batch_size)
  scores = finished_run.ood_scores(model, examples.inputs, logits, batch_size)
  answered = Answered(logits, labels, np.arange(len(labels)), ood_scores=scores)
  outputs = task.answers.outputs(logits)
  metrics = {
    "test": task.metrics.compute_metrics(logits, labels) | out_of_distribution.accepted(task, answered),
    **task.metrics.baseline(task.codec.targets(splits.training_labels(paths.splits)), labels),
    "task": task.name,
    "primary_metric": task.metrics.primary_metric,
    "dataset": flags.get("dataset") or f"test split of {config.dataset}",
  }
  directory = pathlib.Path(output)
  path = directory / "slices.csv" if output else None
  metrics["test"] |= slices.measured(task, examples, outputs, DecodedImageIndex(assets.root), path)
  if output:
    predictions.write_answers(directory / "predictions.csv", task.answers, examples, outputs, scores)
    files.write_json(directory / "metrics.json", {"format": workdir_lib.FORMAT, **metrics})
  return metrics


def _examples(paths, config, flags, assets):
  """Returns the examples to evaluate: those of --dataset, or the run's own test split; with --corrections corrected.

  The --corrections of the command take the place of those of the run, which decided what is in the test split.
  """
  known = splits.hashes(paths.splits)
  if flags.get("dataset") or not flags.get("corrections"):
    examples = data.load(config, assets, known=known)
    return examples if flags.get("dataset") else examples.take(splits.read(paths.splits, examples).test)
  of_run = finished_run.data_config(paths, workdir_lib.open_run(paths.root)[1])
  examples = data.load(dataclasses.replace(config, corrections=of_run.corrections), assets, known=known)
  test = set(examples.ids[splits.read(paths.splits, examples).test])
  corrected = data.load(config, assets, known=known)
  return corrected.take(np.array([id in test for id in corrected.ids]))


def _warn_of_known(examples, paths):
  """Warns if examples of --dataset have the contents of examples from which the model has learnt or was selected."""
  known = splits.hashes(paths.splits, ("train", "validation"))
  count = sum(digest in known for digest in examples.hashes)
  if count:
    log.warning(
      "%s of %s of --dataset are in the training or validation split of the run: on new data the model is worse than "
      "these metrics say",
      *(f"{count:,}", number_of(len(examples.hashes), "example")),
    )


def _targets(examples: Examples, model: Model, workdir):
  """Returns the targets of the examples; raises `UserError` if the model cannot answer them."""
  if examples.modality != model.backbone.modality:
    raise UserError(
      f"--dataset={examples.source} holds {examples.modality}s, but the model of {workdir} reads "
      f"{model.backbone.modality}s"
    )
  model.task.check_inputs(examples)
  try:
    return model.task.codec.targets(examples.labels)
  except UserError as error:
    raise UserError(f"--dataset={examples.source} does not fit the model of {workdir}: {error}") from None
