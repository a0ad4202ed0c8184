"""Texts longer than the backbone reads: which of their tokens it is given, in one sequence or in several."""

import tensorflow as tf

from tl_app.preprocessing import text
from tl_app.preprocessing.base import PreprocessWrapper

# Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?": the first 128 and the last 382 of 510 tokens.
HEAD_SHARE = 128 / 510
# Share of a window that the next one repeats at least, so that what one cuts in two stands whole in the other.
OVERLAP = 0.25
# Tokens of a window where --max_length says nothing: a backbone's cost grows with the square of its length.
WINDOW_LENGTH = 128


class HeadTail(PreprocessWrapper):
  """The first quarter and the last three quarters of what fits, of a text that is longer."""

  def __init__(self, preprocess):
    super().__init__(preprocess, "head_tail")

  def __call__(self, texts):
    """Returns the network's inputs, int32 [batch, length], of string [batch]."""
    return self.pack(head_tail(self.tokenize(texts), max(self.max_length - text.SPECIAL, 0)))


class Windows(PreprocessWrapper):
  """Several sequences of each text; see `cut`."""

  def __init__(self, preprocess, max_windows):
    super().__init__(preprocess, f"windows of {max_windows}, overlap {OVERLAP}")
    self.max_windows = max_windows

  def __call__(self, texts):
    """Returns the network's inputs, int32 [batch, windows, length], of string [batch].

    `windows` is that of the text with the most of them; those that a text lacks are 0, their mask too.
    """
    windows, counts = cut(self.tokenize(texts), max(self.max_length - text.SPECIAL, 1), self.max_windows)
    inputs = self.pack(windows)
    return {
      name: tf.ensure_shape(tf.RaggedTensor.from_row_lengths(x, counts).to_tensor(), [None, None, None])
      for name, x in inputs.items()
    }


def head_tail(tokens, length):
  """Returns ragged [batch, (at most length)]: the first and the last of ragged [batch, (tokens)]."""
  first = round(length * HEAD_SHARE)
  counts = tokens.row_lengths()
  head = tf.minimum(counts, first)
  tail = tf.minimum(counts - head, length - first)
  starts = tokens.row_starts()
  # Where nothing is left out, the tail begins where the head ends.
  return _slices(tokens, tf.stack([starts, starts + counts - tail], 1), tf.stack([head, tail], 1)).merge_dims(1, 2)


def cut(tokens, length, max_windows):
  """Cuts texts into windows that are evenly spaced from the first token to the last.

  Neighbours share at least `OVERLAP` of their tokens, except in a text that is too long for that: its `max_windows`
  windows lie further apart, and what is between them is not read.

  Args:
    tokens: ragged int32 [batch, (tokens)].
    length: tokens of a window; all windows of a text are of this length, or its only one is shorter.
    max_windows: most windows of a text.

  Returns:
    (ragged int32 [windows of all texts, (tokens)], int64 [batch]: how many of them each text has, at least 1).
  """
  counts = tokens.row_lengths()
  left = tf.maximum(counts - length, 0)
  step = max(round(length * (1 - OVERLAP)), 1)
  windows = tf.minimum(1 + (left + step - 1) // step, max_windows)
  number = tf.ragged.range(windows)
  gaps = tf.maximum(windows - 1, 1)
  starts = tokens.row_starts()[:, None] + number * left[:, None] // gaps[:, None]
  lengths = tf.repeat(tf.minimum(counts, length), windows)
  return _slices(tokens, starts.flat_values, lengths), windows


def tokens_read(preprocess, counts):
  """Returns int [n]: tokens that the network is given, of `count_tokens`, special ones included.

  Args:
    preprocess: of texts, with its `max_length`.
    counts: int [n].
  """
  most = preprocess.max_windows * (preprocess.max_length - text.SPECIAL) + text.SPECIAL
  return counts.clip(max=most)


def _slices(tokens, starts, lengths):
  """Returns ragged [.., (lengths)] of the values of `tokens` from `starts` on."""
  ranges = tf.ragged.range(tf.reshape(starts, [-1]), tf.reshape(starts + lengths, [-1]))
  slices = ranges.with_flat_values(tf.gather(tokens.flat_values, ranges.flat_values))
  return slices if starts.shape.rank == 1 else tf.RaggedTensor.from_uniform_row_length(slices, starts.shape[1])
