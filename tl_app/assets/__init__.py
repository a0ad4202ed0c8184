"""Local directories of handles. Needs no TensorFlow."""

from tl_app.assets.assets import Assets
from tl_app.assets.cache import cache_root

__all__ = ["Assets", "cache_root"]
