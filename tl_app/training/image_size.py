"""--max_minutes: smaller images if the features of full-size ones would take too much of the time."""

import logging
import time

import numpy as np

from tl_app.features.frozen import Features
from tl_app.training.time_limit import TimeLimit

log = logging.getLogger(__name__)

# Share of the time for the frozen features that every run begins with.
SHARE = 0.3
# Sizes are tried in steps of so many pixels, the stride of most image networks, down to half of the network's own.
STEP = 32
# Fewer images are computed before they are measured.
MIN_IMAGES = 512


def choose(features: Features, limit: TimeLimit) -> tuple[int, float]:
  """Returns (height and width of images in pixels, seconds that the features of full-size ones would take).

  A batch through decoding and network is measured; stored features take no time.

  Args:
    features: the `Features` at the network's own size.
    limit: the `TimeLimit`.
  """
  own_size = int(features.model.backbone.preprocess.size)
  missing = features.num_missing()
  if missing < MIN_IMAGES:
    return own_size, 0.0
  seconds = missing * _seconds_per_image(features)
  return smaller(own_size, seconds, SHARE * limit.seconds_left()), seconds


def smaller(size: int, seconds: float, limit: float) -> int:
  """Returns the largest size whose images take at most `limit` seconds, at least half of `size`.

  Args:
    size: height and width of the network's own size, in pixels.
    seconds: that images of this size take; the time is proportional to the number of pixels.
    limit: in seconds.
  """
  sizes = [size, *range(size - STEP, (size + 1) // 2 - 1, -STEP)]
  return next((each for each in sizes if seconds * (each / size) ** 2 <= limit), sizes[-1])


def _seconds_per_image(features):
  sample = np.resize(features.data.train, features.batch_size)
  # The first batch traces.
  for _ in range(2):
    start = time.monotonic()
    features.predict(features.model.features, sample)
  return (time.monotonic() - start) / len(sample)
