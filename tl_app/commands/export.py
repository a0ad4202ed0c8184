"""Exports the model of a finished run again and checks the export."""

import pathlib

from tl_app import data
from tl_app.commands import finished_run
from tl_app.data.splitting import splits
from tl_app.errors import UserError
from tl_app.model import inference
from tl_app.serving import parity
from tl_app.tasks.task import Task


def export(
  workdir: str | pathlib.Path, output: str, cache_dir: str = "", offline: bool = False
) -> tuple[pathlib.Path, dict, Task]:
  """Exports the model of a finished run and checks the export on the run's test split.

  Args:
    workdir: directory of the run.
    output: directory of the SavedModel; "" is export/ in the workdir.
    cache_dir: as in `Config`; "" for that of the run.
    offline: as in `Config`.

  Returns:
    (directory of the SavedModel, result of the export check, the `Task`).

  Raises:
    UserError: there is no finished run, or `output` holds other files.
    RunFailed: the answers of the export differ from those of the model.
  """
  finished_run.check_output(output)
  paths, config, assets = finished_run.opened(workdir, cache_dir, offline)
  directory = pathlib.Path(output) if output else paths.export
  if output and directory.exists() and not (directory / "saved_model.pb").is_file() and any(directory.iterdir()):
    raise UserError(f"--output={output} is not empty and holds no SavedModel: choose another directory")
  examples = data.load(config, assets, known=splits.hashes(paths.splits))
  test = examples.take(splits.read(paths.splits, examples).test)
  test = test.take(parity.sample(len(test)))
  model = finished_run.restore(paths, config, assets)
  batch_size = finished_run.inference_batch(paths, model)
  outputs = model.task.answers.outputs(inference.predict(model.network, model.backbone, test.inputs, batch_size))
  proof = parity.export_and_prove(model, directory, test.inputs, outputs, batch_size=batch_size)
  return directory, proof, model.task
