"""--max_minutes: a smaller image size if the features of full-size images would take too much time."""

import logging
import time

import numpy as np

from tl_app.features.frozen import Features
from tl_app.training.time_limit import TimeLimit

log = logging.getLogger(__name__)

# Share of the time that the frozen features may take.
SHARE = 0.3
# Difference of two sizes in pixels, the stride of most image networks. The smallest is half of the network's own size.
STEP = 32
# Smallest number of missing images for which the time is measured.
MIN_IMAGES = 512


def choose(features: Features, limit: TimeLimit) -> tuple[int, float]:
  """Returns (height and width of images in pixels, seconds that the features of full-size images would take).

  The time is measured on one batch, with decoding; stored features take no time.

  Args:
    features: the `Features` at the network's own size.
    limit: the `TimeLimit`.
  """
  full_size = int(features.model.backbone.preprocess.size)
  missing = features.num_missing()
  if missing < MIN_IMAGES:
    return full_size, 0.0
  seconds = missing * _seconds_per_image(features)
  return smaller(full_size, seconds, SHARE * limit.seconds_left()), seconds


def smaller(size: int, seconds: float, limit: float) -> int:
  """Returns the largest image size that takes at most `limit` seconds, or the smallest one if none does.

  Args:
    size: height and width of full-size images, in pixels. No size is below half of it.
    seconds: time that full-size images take; it is proportional to the number of pixels.
    limit: available time in seconds.
  """
  sizes = [size, *range(size - STEP, (size + 1) // 2 - 1, -STEP)]
  return next((candidate for candidate in sizes if seconds * (candidate / size) ** 2 <= limit), sizes[-1])


def _seconds_per_image(features):
  sample = np.resize(features.data.train, features.batch_size)
  # The first batch traces.
  for _ in range(2):
    start = time.monotonic()
    features.predict(features.model.features, sample)
  return (time.monotonic() - start) / len(sample)
