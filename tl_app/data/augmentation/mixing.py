"""Mixup and cutmix: a batch of images, each with a share of another one, and the targets likewise."""

import keras
import tensorflow as tf

from tl_app.data.augmentation import images

# Apart from the seeds of the examples.
_STREAM = 1_000_003


class Mix:
  """Keras' MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019); where both are on, each batch takes one of them."""

  def __init__(self, mixup, cutmix, clean_from, seed):
    """Args:
    mixup, cutmix: alpha of the Beta distribution of the shares; 0 is off, not both.
    clean_from: number of the first batch that is left as it is.
    seed: int.
    """
    self._clean_from = clean_from
    self._seed = seed
    self._layers = [keras.layers.MixUp(alpha=mixup)] if mixup else []
    # Keras draws alpha itself, evenly from a range.
    self._layers += [keras.layers.CutMix(factor=(cutmix, cutmix))] if cutmix else []

  def __call__(self, batch, targets, number):
    """Returns (images, targets) of batch `number`, int64 scalar.

    Args:
      batch: float32 [batch, height, width, 3].
      targets: float32 [batch, outputs].
      number: of the batch in the stream.
    """
    seed = images.Seed(tf.stack([tf.cast(self._seed + _STREAM, tf.int64), number]))
    choice = keras.random.randint([], 0, len(self._layers), seed=seed)
    choice = tf.where(number < self._clean_from, choice, len(self._layers))
    branches = [_branch(layer, batch, targets, seed) for layer in self._layers]
    return tf.switch_case(choice, [*branches, lambda: (batch, targets)])


def _branch(layer, batch, targets, seed):
  def mixed():
    transformation = layer.get_random_transformation(batch, training=True, seed=seed)
    changed = layer.transform_images(batch, transformation, training=True)
    shares = layer.transform_labels(targets, transformation, training=True)
    return tf.ensure_shape(changed, batch.shape), tf.ensure_shape(tf.cast(shares, targets.dtype), targets.shape)

  return mixed
