"""--max_minutes: smaller images where those of the backbone's own size would take too much of the time."""

import dataclasses
import logging
import time

import numpy as np

from tl_app import backbones
from tl_app import config as config_lib
from tl_app.data import modalities
from tl_app.errors import UserError
from tl_app.features import session
from tl_app.model import model as model_lib

log = logging.getLogger(__name__)

# Of the time, for the frozen features that every run begins with.
SHARE = 0.3
# Sizes are tried in steps of so many pixels, the stride of most image networks, down to half of the network's own.
STEP = 32
# Fewer images are done before they are measured.
LEAST_IMAGES = 512
# So many at a time under --batch_size=auto, which looks only later at what memory holds.
FEW_IMAGES = 8


def settle(run):
  """Loads the backbone for smaller images where --max_minutes asks for it and --image_size is left open.

  Measured is a batch through decoding and network; what is stored of earlier runs takes no time. The size comes into
  plan.json, from which a finished run takes it.
  """
  has_size = "image_size" in modalities.of(run.examples.modality).flags
  if not has_size or run.config.image_size or not run.deadline:
    return
  missing = session.missing_features(run)
  if missing < LEAST_IMAGES:
    return
  own, left = int(run.model.backbone.preprocess.size), run.deadline - time.monotonic()
  needed = missing * _seconds_an_image(run)
  size = smaller(own, needed, SHARE * left)
  if size == own:
    return
  config = dataclasses.replace(run.config, image_size=size)
  try:
    with run.strategy.scope():
      run.model = model_lib.load(config, backbones.resolve(config.backbone), run.assets, run.model.task, 0)
  except UserError as error:
    log.warning("--max_minutes=%g: %.0f s for features alone; %s", config.max_minutes, needed, error)
    return
  log.warning(
    "--max_minutes=%g: images of %d x %d pixels in place of %d x %d, whose features alone would take %.0f s of %.0f; "
    "--image_size=%d keeps them",
    *(config.max_minutes, size, size, own, own, needed, left, own),
  )


def smaller(size, seconds, limit):
  """Returns the largest size whose images take at most `limit` seconds, at least half of `size`.

  Args:
    size: pixels of the network's own size.
    seconds: that images of it take; the time goes with the number of pixels.
    limit: seconds.
  """
  sizes = [size, *range(size - STEP, (size + 1) // 2 - 1, -STEP)]
  return next((each for each in sizes if seconds * (each / size) ** 2 <= limit), sizes[-1])


def _seconds_an_image(run):
  few = run.config.batch_size == config_lib.AUTO
  sample = np.resize(run.split.train, FEW_IMAGES if few else session.inference_batch(run))
  # The first batch traces.
  for _ in range(2):
    start = time.monotonic()
    session.predict(run, run.model.features, sample)
  return (time.monotonic() - start) / len(sample)
