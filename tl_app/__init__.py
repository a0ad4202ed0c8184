"""Fine-tunes pretrained image and text models: `Config` says what, `train_and_evaluate` does it."""

from tl_app.config import Config

__all__ = ["Config", "train_and_evaluate"]


def __getattr__(name):
  # Importing tl_app must not import TensorFlow: `--help` and the table of backbones do without.
  if name == "train_and_evaluate":
    from tl_app.commands.train import train_and_evaluate

    return train_and_evaluate
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
