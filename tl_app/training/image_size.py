"""--max_minutes: a smaller image size if the features of full-size images would take too much time."""

import dataclasses
import logging
import time

import numpy as np

from tl_app.assets import Assets
from tl_app.backbones.spec import BackboneSpec
from tl_app.config import AUTO, Config
from tl_app.data import modalities
from tl_app.errors import UserError
from tl_app.features.frozen import Features
from tl_app.model import model as model_lib
from tl_app.model.model import Model
from tl_app.training.time_limit import TimeLimit
from tl_app.workdir import Record

log = logging.getLogger(__name__)

# Share of the time that the frozen features may take.
SHARE = 0.3
# Difference of two sizes in pixels, the stride of most image networks. The smallest is half of the network's own size.
STEP = 32
# Smallest number of missing images for which the time is measured.
MIN_IMAGES = 512
# Batch size of the measurement with --batch_size=auto, which measures memory only later.
FEW_IMAGES = 8


def with_smaller_images(
  config: Config, spec: BackboneSpec, assets: Assets, features: Features, limit: TimeLimit, record: Record
) -> Model:
  """Returns the model, or one for smaller images if full-size images would take too much of --max_minutes.

  Args:
    config: the `Config`.
    spec: the record of --backbone.
    assets: the `Assets`.
    features: the `Features` at the network's own size.
    limit: the `TimeLimit`.
    record: the `Record` of the run.
  """
  model = features.model
  if config.image_size or "image_size" not in modalities.of(features.data.examples.modality).flags:
    return model
  if config.batch_size == AUTO:
    features = features.with_batch_size(FEW_IMAGES)
  full_size = int(model.backbone.preprocess.size)
  size, seconds = record.state.decide(
    "image_size", lambda: features.devices.decided(lambda: list(choose(features.alone(), limit.alone())))
  )
  if size == full_size:
    return model
  remaining = limit.seconds_left()
  try:
    with features.devices.scope():
      smaller_images = model_lib.load(dataclasses.replace(config, image_size=size), spec, assets, model.task, 0)
  except UserError as error:
    log.warning("--max_minutes=%g: the features alone take %.0f s; %s", config.max_minutes, seconds, error)
    return model
  log.warning(
    "--max_minutes=%g: images are resized to %d x %d pixels instead of %d x %d, for which the features alone would "
    "take %.0f of %.0f s; --image_size=%d keeps the full size",
    *(config.max_minutes, size, size, full_size, full_size, seconds, remaining, full_size),
  )
  return smaller_images


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
