"""What a run cost and what it ran on, for metrics.json."""

import importlib.metadata
import platform
import resource
from collections.abc import Mapping

PACKAGES = (
  "tl_app",
  "tensorflow",
  "keras",
  "keras-hub",
  "tensorflow-hub",
  "tensorflow-text",
  "scikit-learn",
  "numpy",
)


def describe(seconds: Mapping[str, float], replicas: int) -> dict:
  """Returns {"seconds", "peak_rss_mb", "environment"}.

  Args:
    seconds: {name: seconds} of the run so far.
    replicas: number of devices that trained together.
  """
  import tensorflow as tf

  return {
    "seconds": {name: round(value, 2) for name, value in seconds.items()},
    "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    "environment": {
      "python": platform.python_version(),
      "platform": platform.platform(),
      "devices": [device.name for device in tf.config.list_logical_devices()],
      "replicas": replicas,
      "packages": {name: version(name) for name in PACKAGES},
    },
  }


def version(package: str) -> str:
  """Returns the version of a distribution, or "not installed"."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    # The code of tl_app also runs from a checkout.
    return "not installed"
