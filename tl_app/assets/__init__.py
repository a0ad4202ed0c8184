"""Local directories of handles. Needs no TensorFlow."""

from tl_app.assets.assets import Assets
from tl_app.assets.cache import cache_root
from tl_app.assets.locks import UNKNOWN

__all__ = ["UNKNOWN", "Assets", "cache_root"]
