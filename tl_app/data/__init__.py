"""Data: `load` gives raw `Examples`, `splits.make` divides them."""

from tl_app.data.readers.sources import load

__all__ = ["load"]
