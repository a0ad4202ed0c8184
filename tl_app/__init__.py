"""Fine-tunes pretrained image and text models: `Config` holds the settings, `train_and_evaluate` runs them."""

import typing

from tl_app.config import Config

if typing.TYPE_CHECKING:
  from tl_app.commands.train import train_and_evaluate

__all__ = ["Config", "train_and_evaluate"]
__version__ = "0.1.0"


def __getattr__(name):
  # Importing tl_app must not import TensorFlow: `--help` and the table of backbones do not need it.
  if name == "train_and_evaluate":
    from tl_app.commands.train import train_and_evaluate

    return train_and_evaluate
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
