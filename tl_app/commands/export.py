"""Exports the model of a finished run again and checks the export."""

import pathlib
import types
from collections.abc import Mapping

import numpy as np

from tl_app import workdir as workdir_lib
from tl_app.backbones import saved_backbone, tuned
from tl_app.commands import finished_run
from tl_app.errors import UserError
from tl_app.model import inference
from tl_app.report import facts, model_card, page
from tl_app.serving import handover, parity
from tl_app.tasks.task import Task
from tl_app.training import out_of_distribution
from tl_app.training.answered import Answered
from tl_app.workdir import Record


def export(
  workdir: str | pathlib.Path, output: str, downloads: Mapping = types.MappingProxyType({}), candidate: str = ""
) -> tuple[pathlib.Path, dict, Task]:
  """Exports the model of a finished run and checks the export on the run's test split.

  An export into the workdir finishes a run whose own export failed: metrics.json and the report get the result.

  Args:
    workdir: directory of the run.
    output: directory of the SavedModel; "" is export/ in the workdir.
    downloads: as of `finished_run.opened`.
    candidate: name of the candidate to export; "" for the selected one. Another one needs `output`.

  Returns:
    (directory of the SavedModel, result of the export check, the `Task`).

  Raises:
    UserError: there is no finished run, it has no such candidate, or `output` holds other files.
    RunFailed: the answers of the export differ from those of the model.
  """
  finished_run.check_output(output)
  paths, config, assets = finished_run.opened(workdir, downloads)
  directory = pathlib.Path(output) if output else paths.export
  if output and directory.exists() and not (directory / "saved_model.pb").is_file() and any(directory.iterdir()):
    raise UserError(f"--output={output} is not empty and holds no SavedModel: choose another directory")
  selected = tuned.selected(paths.root)
  if candidate and not output and candidate != selected:
    raise UserError(
      f"--candidate={candidate}: {paths.export} is for the selected model, {selected}; give a directory with --output"
    )
  split = finished_run.split_examples(paths, config, assets)
  test = split.examples.take(split.test)
  candidate = candidate or selected
  model = finished_run.restore(paths, config, assets, "" if candidate == selected else candidate)
  batch_size = finished_run.inference_batch(paths, model)
  if candidate != selected:
    model = out_of_distribution.of_candidate(model, split, config.answers, batch_size)
  metrics, told = workdir_lib.read(paths.metrics), facts.read(paths.root)
  if candidate == selected:
    test = test.take(parity.sample(len(test)))
  logits = inference.predict(model.network, model.backbone, test.inputs, batch_size)
  scores = finished_run.ood_scores(model, test.inputs, logits, batch_size)
  if candidate != selected:
    answered = Answered(logits, model.task.codec.targets(test.labels), np.arange(len(test)), ood_scores=scores)
    measured = model.task.metrics.compute_metrics(logits, answered.targets)
    told = told.of_candidate(measured | out_of_distribution.accepted(model.task, answered))
  about = handover.about(config, model_card.text(told, candidate))
  expected = parity.Expected(model.task.answers.outputs(logits), scores)
  record = Record(paths)
  with record.replaced(directory):
    proof = parity.export_and_prove(model, directory, test.inputs, expected, batch_size=batch_size, about=about)
  if not output:
    record.write_metrics(metrics | {"parity": proof})
    page.write(paths.root, split.examples)
  return directory, proof, model.task


def export_backbone(
  workdir: str | pathlib.Path, output: str, downloads: Mapping = types.MappingProxyType({}), candidate: str = ""
) -> pathlib.Path:
  """Writes the backbone of a finished run, without its head, for --backbone.

  Args:
    workdir: directory of the run.
    output: directory to write; "" is backbone/ in the workdir.
    downloads: as of `finished_run.opened`.
    candidate: name of the candidate; "" for the selected one.

  Returns:
    The directory.

  Raises:
    UserError: there is no finished run or candidate, its backbone cannot be written, or `output` holds other files.
  """
  finished_run.check_output(output)
  paths, config, assets = finished_run.opened(workdir, downloads)
  directory = pathlib.Path(output) if output else paths.backbone
  if output and directory.exists() and not saved_backbone.is_saved(directory) and any(directory.iterdir()):
    raise UserError(f"--output={output} is not empty and holds no backbone: choose another directory")
  selected = tuned.selected(paths.root)
  candidate = candidate or selected
  backbone = finished_run.restore(paths, config, assets, "" if candidate == selected else candidate).backbone
  if backbone.save is None:
    raise UserError(f"--part=backbone: a backbone of the kind {backbone.spec.kind}, as used here, has no form to write")
  metrics = workdir_lib.read(paths.metrics)
  how = f"fine-tuned on labels, the candidate {candidate}"
  title = metrics.get("primary_metric", "accuracy")
  measured = {f"test {title} of the run, of {selected}": (None, metrics["test"].get(title))}
  card = saved_backbone.Card(config.backbone, how, f"`{config.dataset}`", measured, backbone.spec.licence)
  with Record(paths).replaced(directory):
    saved_backbone.write(backbone, directory, card)
  return directory
