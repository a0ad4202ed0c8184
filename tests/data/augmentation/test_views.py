"""Views of images: parts of them with other colours, the same for the same seed."""

import numpy as np
import tensorflow as tf

from tl_app.data.augmentation import views
from tl_app.data.augmentation.views import ViewSettings

# The value of a pixel is its place: red grows to the right, green downwards.
PLACES = np.zeros((64, 32, 32, 3), "float32")
PLACES[..., 0], PLACES[..., 1] = np.linspace(0, 1, 32), np.linspace(0, 1, 32)[:, None]


def seeds(number):
  return tf.constant([3, number], tf.int64)


def test_a_view_is_a_part_of_the_image_and_may_be_mirrored():
  settings = ViewSettings(crop_scale=0.25, color_jitter=0.0, flip=True)
  seen = views.view(tf.constant(PLACES), settings, seeds(0)).numpy()
  width, height = seen[:, 0, -1, 0] - seen[:, 0, 0, 0], seen[:, -1, 0, 1] - seen[:, 0, 0, 1]
  area = np.abs(width) * height
  assert 0.2 < area.min() < 0.35 and 0.8 < area.max() <= 1.0 and (height > 0).all()
  assert 20 < np.sum(width < 0) < 44
  assert (views.view(tf.constant(PLACES), ViewSettings(0.25, 0.0, False), seeds(0)).numpy()[:, 0, -1, 0] > 0.3).all()
  whole = views.view(tf.constant(PLACES), ViewSettings(1.0, 0.0, False), seeds(0)).numpy()
  # The whole area with other sides: no side is shortened by more than the largest ratio.
  assert (whole[:, 0, -1, 0] - whole[:, 0, 0, 0]).min() > (3 / 4) ** 0.5 - 0.01


def test_colours_change_and_stay_in_range():
  settings = ViewSettings(crop_scale=1.0, color_jitter=0.4, flip=False)
  grey = tf.fill([256, 8, 8, 3], 0.5)
  levels = views.view(grey, settings, seeds(1)).numpy()
  assert levels.min() >= 0 and levels.max() <= 1 and 0.25 < levels.min() < 0.35 and 0.65 < levels.max() < 0.75
  colourful = views.view(tf.random.stateless_uniform([256, 8, 8, 3], [0, 0]), settings, seeds(1)).numpy()
  without = np.mean(np.ptp(colourful, axis=-1).max(axis=(1, 2)) < 1e-4)
  assert abs(without - views.JITTERED * views.GREY) < 0.06


def test_the_same_seed_gives_the_same_pair_and_another_one_another():
  settings = ViewSettings(0.3, 0.4, True)
  one, again, other = (views.two_views(tf.constant(PLACES), settings, seeds(n)).numpy() for n in (4, 4, 5))
  np.testing.assert_array_equal(one, again)
  assert np.abs(one - other).mean() > 0.01 and np.abs(one[::2] - one[1::2]).mean() > 0.01


def test_pairs_come_in_turn():
  rows = views.interleaved(tf.constant([[1], [2]]), tf.constant([[10], [20]]))
  assert rows.numpy().ravel().tolist() == [1, 10, 2, 20]
