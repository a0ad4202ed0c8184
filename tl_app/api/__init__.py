"""The functions of `import tl_app`: they take the settings of a run as keywords and call the commands."""

import dataclasses
import inspect
import pathlib
import typing

from tl_app import config as config_lib
from tl_app.api import session
from tl_app.api.pretrained import Pretrained
from tl_app.api.run import Run
from tl_app.commands import early_checks
from tl_app.config import Config, rules
from tl_app.errors import UserError

if typing.TYPE_CHECKING:
  import pandas as pd

__all__ = ["Pretrained", "Run", "find_faults", "fit", "load", "pretrain_backbone", "stages"]


def _takes_settings(function: typing.Any) -> typing.Any:
  """Gives a function the signature with every setting, which notebooks and editors show."""
  keywords = [
    inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
    for field in dataclasses.fields(Config)
  ]
  returned = inspect.signature(function).return_annotation
  function.__signature__ = inspect.Signature(keywords, return_annotation=returned)
  return function


@_takes_settings
def fit(**settings: typing.Any) -> Run:
  """Fine-tunes a pretrained backbone on labelled data, as `python -m tl_app.train` does.

  Prints the plan and the progress: in a notebook below the cell, elsewhere on standard error. If the program has
  configured logging, the lines go there.

  Args:
    **settings: the fields of `Config`, which are the flags of the command. `dataset` and `workdir` are needed.
      A path may be a `pathlib.Path`.

  Returns:
    The finished `Run`.

  Raises:
    UserError: something the user must change; the message is the line that the command prints.
    RunFailed: the run itself failed: a loss is not finite, or the audit or the export check failed.

  Example:
    run = tl_app.fit(dataset="table:messages.csv", backbone="minilm_l6.pypi", workdir="runs/messages", recipe="probe")
    print(run)
  """
  config = _config("tl_app.fit", settings)
  config_lib.validate(config)
  early_checks.run(config)
  early_checks.directory(config)
  with session.running():
    from tl_app.commands import train

    train.train_and_evaluate(config, config.workdir)
  return Run(config.workdir, config.trust_backbone)


@_takes_settings
def pretrain_backbone(**settings: typing.Any) -> Pretrained:
  """Pretrains a backbone on data without labels, as `python -m tl_app.pretrain` does. Prints as `fit` does.

  Args:
    **settings: the fields of `Config`, which are the flags of the command. `dataset`, `objective` and `workdir` are
      needed. A path may be a `pathlib.Path`.

  Returns:
    The finished `Pretrained`.

  Raises:
    UserError: something the user must change; the message is the line that the command prints.
    RunFailed: the run itself failed.

  Example:
    pretrained = tl_app.pretrain_backbone(
      dataset="texts:mails.txt", backbone="lstm.scratch", objective="next_token", workdir="runs/mails_lm", epochs=1
    )
    tuned = tl_app.fit(dataset="table:messages.csv", backbone=pretrained.backbone, workdir="runs/pretrained", epochs=2)
  """
  config = _config("tl_app.pretrain_backbone", settings)
  config_lib.validate(config)
  early_checks.run(config, labelled=False)
  with session.running():
    from tl_app.commands import pretrain

    pretrain.pretrain(config, config.workdir)
  return Pretrained(config.workdir)


def load(workdir: str | pathlib.Path, trust_backbone: bool = False) -> Run:
  """Opens a finished run.

  Args:
    workdir: directory of the run.
    trust_backbone: as of `fit`.

  Raises:
    UserError: the directory holds no finished run.

  Example:
    run = tl_app.load("runs/messages")
    run.metrics["test"]["accuracy"]
  """
  return Run(workdir, trust_backbone)


@_takes_settings
def find_faults(**settings: typing.Any) -> "pd.DataFrame":
  """Looks for faults in a data set, as `python -m tl_app.check` does.

  Args:
    **settings: the fields of `Config`, of which only `dataset` is needed. With `backbone`, the tokens of the texts are
      checked too, and the labels are compared with predictions from frozen features.

  Returns:
    A row for each finding, the serious ones first: severity, kind, count, total (among how many; 0 where that says
    nothing), meaning, detail, examples (up to five ids) and advice. `attrs` holds the other facts, as in the JSON file
    of the command: the number of examples, the splits, what was not checked.

  Raises:
    UserError: a setting cannot work, or no example is usable.

  Example:
    faults = tl_app.find_faults(dataset="table:messages.csv")
    faults[faults.severity == "serious"]
  """
  config = _config("tl_app.find_faults", settings)
  config_lib.validate(config, needed=("dataset",))
  early_checks.run(config)
  with session.running():
    import pandas as pd

    from tl_app.commands import check

    result, _ = check.check(config)
  columns = ["severity", "kind", "count", "total", "meaning", "detail", "examples", "advice"]
  faults = pd.DataFrame(result.pop("findings"), columns=columns)
  faults.attrs.update(result)
  return faults


def stages(backbone: str | pathlib.Path, **loading: typing.Any) -> "pd.DataFrame":
  """Loads a backbone and returns its stages, as `python -m tl_app.inspect` does: the names that `train_stages` takes.

  Args:
    backbone: a name or a handle, as of `fit`.
    **loading: other fields of `Config` about it, such as `preprocessor`, `pooling`, `image_size`, `pixels`,
      `cache_dir`, `offline`, `bundle`.

  Returns:
    A row for each stage, from the input upwards: stage, variables (their number), parameters.

  Raises:
    UserError: the backbone is not known, or it cannot be loaded with these settings.

  Example:
    tl_app.stages("minilm_l6.pypi")
  """
  known = (*rules.LOADING_FLAGS, *rules.DOWNLOAD_FLAGS)
  unknown = [name for name in loading if name not in known]
  if unknown:
    raise UserError(f"tl_app.stages takes no {unknown[0]!r}, but {', '.join(known)}")
  config = _config("tl_app.stages", {"backbone": backbone, **loading})
  config_lib.validate(config, needed=("backbone",))
  early_checks.run(config)
  with session.running():
    import pandas as pd

    from tl_app.commands import inspect_backbone

    loaded = inspect_backbone.load(config)
    return pd.DataFrame(inspect_backbone.stages(loaded), columns=["stage", "variables", "parameters"])


def _config(source, settings):
  if hasattr(settings.get("dataset"), "to_csv"):
    raise UserError(
      "the dataset is a table in memory: write it to a file, as with frame.to_csv('data.csv', index=False), and give "
      "dataset='table:data.csv'"
    )
  for name, value in settings.items():
    rules.require(config_lib.renamed_flag(name, str(value)))
  return config_lib.from_values(settings, source)
