"""Images: Keras' random layers, each with a seed that depends on (seed, place in the stream) alone."""

import dataclasses

import keras
import tensorflow as tf

RANGE = (0.0, 1.0)
# RandAugment (Cubuk et al. 2020): so many operations an image, of magnitude 9 of 30 as in torchvision's table.
NUM_OPERATIONS = 2


@dataclasses.dataclass(frozen=True)
class Strength:
  """How far an image may change; each amount is drawn evenly, up to it in both directions.

  Attributes:
    degrees: of rotation about the centre.
    zoom: share of height and width that may be cut off, the rest enlarged.
    shift: share of height and of width.
    brightness: of the range of pixels, added.
    contrast: share of the distance of a pixel from its channel's mean.
    saturation: Keras' factor, around 0.5, which changes nothing.
  """

  degrees: float
  zoom: float
  shift: float
  brightness: float
  contrast: float
  saturation: float


STRENGTHS = {
  "light": Strength(degrees=10, zoom=0.1, shift=0.0, brightness=0.1, contrast=0.1, saturation=0.0),
  "medium": Strength(degrees=25, zoom=0.3, shift=0.1, brightness=0.2, contrast=0.3, saturation=0.2),
}


class Seed(keras.random.SeedGenerator):
  """Gives Keras' layers the seeds of one example: the n-th draw depends on the example's seed and n alone.

  Keras' own counts up a variable with every draw: in a parallel `map` the numbers of an example would depend on which
  other examples came first.
  """

  def __init__(self, value):
    """Takes the example's seed, int64 [2], and makes no variable."""
    self._value = value
    self._draws = 0

  def next(self, ordered=True):
    """Returns the next seed, int64 [2]."""
    self._draws += 1
    return tf.random.experimental.stateless_fold_in(self._value, self._draws)


class Augment:
  """float32 [height, width, 3] in [0, 1] to the same, changed at random.

  Attributes:
    identity: what tells two augmentations apart: two with the same make the same of an image and a number.
  """

  def __init__(self, name, seed):
    """Args:
    name: "light", "medium" or "rand".
    seed: int.
    """
    self._seed = seed
    self.identity = f"{name}, seed {seed}"
    self._always = [keras.layers.RandomFlip("horizontal")]
    self._some = _operations() if name == "rand" else []
    if name != "rand":
      self._always += _layers(STRENGTHS[name])

  def __call__(self, image, number):
    """Returns the image as it is at place `number`, int64 scalar, of the stream of examples."""
    seed = Seed(tf.stack([tf.cast(self._seed, tf.int64), number]))
    changed = image
    for layer in self._always:
      changed = apply(layer, changed, seed)
    for _ in range(NUM_OPERATIONS if self._some else 0):
      choice = keras.random.randint([], 0, len(self._some), seed=seed)
      changed = tf.switch_case(choice, [_branch(layer, changed, seed) for layer in self._some])
    return tf.clip_by_value(tf.ensure_shape(changed, image.shape), *RANGE)


def apply(layer, image, seed):
  """Returns an image as a Keras layer changes it with the numbers of `seed`, a `Seed`."""
  # Some of the layers fail on a single image.
  batch = image[None]
  transformation = layer.get_random_transformation(batch, training=True, seed=seed)
  return layer.transform_images(batch, transformation, training=True)[0]


def rotation(degrees):
  """Returns the Keras layer that rotates by up to `degrees` to either side; Keras counts in turns."""
  return keras.layers.RandomRotation(degrees / 360, fill_mode="reflect")


def described(name):
  """Returns what --augment does to an image, in a few words."""
  if name == "rand":
    return f"left-right flip, {NUM_OPERATIONS} of {len(_operations())} operations"
  strength = STRENGTHS[name]
  shift = f", shift {strength.shift:.0%}" if strength.shift else ""
  saturation = ", saturation" if strength.saturation else ""
  return (
    f"left-right flip, rotation {strength.degrees:g} degrees, zoom {strength.zoom:.0%}{shift}, "
    f"brightness {strength.brightness:.0%}, contrast {strength.contrast:.0%}{saturation}"
  )


def _layers(strength):
  found = [rotation(strength.degrees), keras.layers.RandomZoom((-strength.zoom, 0.0), fill_mode="reflect")]
  if strength.shift:
    found.append(keras.layers.RandomTranslation(strength.shift, strength.shift, fill_mode="reflect"))
  found += [_brightness(strength.brightness), _contrast(strength.contrast)]
  if strength.saturation:
    found.append(_saturation(strength.saturation))
  return found


def _operations():
  """Returns RandAugment's operations. Keras' RandAugment rotates by up to half a turn at its default and runs all."""
  return [
    rotation(9),
    keras.layers.RandomShear(0.09, 0.09, fill_mode="reflect"),
    keras.layers.RandomTranslation(0.14, 0.14, fill_mode="reflect"),
    _brightness(0.27),
    _contrast(0.27),
    _saturation(0.27),
    keras.layers.RandomSharpness((0.2, 0.8), value_range=RANGE),
    # One number would stand for 1 bit up to that many.
    keras.layers.RandomPosterization((7, 7), value_range=RANGE),
    _solarization(0.7),
    keras.layers.AutoContrast(value_range=RANGE),
    keras.layers.Equalization(value_range=RANGE),
  ]


def _solarization(least):
  layer = keras.layers.Solarization(threshold_factor=(0.0, 1.0), value_range=RANGE)
  # Keras multiplies the upper end alone by 255, and refuses a lower one above 1.
  layer.threshold_factor = (255 * least, 1.0)
  return layer


def _brightness(factor):
  return keras.layers.RandomBrightness(factor, value_range=RANGE)


def _contrast(factor):
  return keras.layers.RandomContrast(factor, value_range=RANGE)


def _saturation(factor):
  return keras.layers.RandomSaturation((0.5 - factor / 2, 0.5 + factor / 2), value_range=RANGE)


def _branch(layer, image, seed):
  return lambda: tf.ensure_shape(tf.cast(apply(layer, image, seed), image.dtype), image.shape)
