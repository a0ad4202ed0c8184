"""Data: `load` gives raw `Examples`, `splits.make` divides them."""

__all__ = ["load"]


def __getattr__(name):
  # The readers import TensorFlow, which messages about flags and files, and the report, do without.
  if name == "load":
    from tl_app.data.readers.sources import load

    return load
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
