"""Fine-tunes pretrained image and text models.

`fit` trains and returns a `Run`, `load` opens a finished run, `find_faults` checks data, `backbones()` lists networks,
`pretrain_backbone` pretrains one.
"""

import importlib
import typing

from tl_app.config import Config
from tl_app.errors import RunFailed, UserError

if typing.TYPE_CHECKING:
  from tl_app import backbones
  from tl_app.api import Pretrained, Run, find_faults, fit, load, pretrain_backbone, stages
  from tl_app.commands.cli import start_tensorflow
  from tl_app.commands.train import train_and_evaluate

__all__ = [
  "Config",
  "Pretrained",
  "Run",
  "RunFailed",
  "UserError",
  "backbones",
  "find_faults",
  "fit",
  "load",
  "pretrain_backbone",
  "stages",
  "start_tensorflow",
  "train_and_evaluate",
]
__version__ = "0.1.0"

# Importing tl_app must take no time: what needs TensorFlow, NumPy or pandas is imported when it is used.
_HOMES = {
  "Pretrained": "tl_app.api",
  "Run": "tl_app.api",
  "find_faults": "tl_app.api",
  "fit": "tl_app.api",
  "load": "tl_app.api",
  "pretrain_backbone": "tl_app.api",
  "stages": "tl_app.api",
  "start_tensorflow": "tl_app.commands.cli",
  "train_and_evaluate": "tl_app.commands.train",
}


def __getattr__(name):
  if name in _HOMES:
    return getattr(importlib.import_module(_HOMES[name]), name)
  if name == "backbones":
    # The package itself can be called.
    return importlib.import_module("tl_app.backbones")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
  return sorted(__all__)
