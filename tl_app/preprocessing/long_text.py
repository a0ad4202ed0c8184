"""Texts longer than the limit of the backbone: which of their tokens it reads, in one sequence or in several."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tl_app.preprocessing import text
from tl_app.preprocessing.base import Preprocess, PreprocessWrapper

# Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?": the first 128 and the last 382 of 510 tokens.
HEAD_SHARE = 128 / 510
# Smallest share of a window that the next window repeats, so that a phrase cut by one is whole in the other.
OVERLAP = 0.25
# Tokens of a window without --max_length: the cost of a backbone grows with the square of the length.
WINDOW_LENGTH = 128


class HeadTail(PreprocessWrapper):
  """Of a text that is too long, the beginning and the end: a quarter and three quarters of the limit."""

  can_pack = True

  def __init__(self, preprocess: Preprocess):
    super().__init__(preprocess, "head_tail")

  def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the network's inputs, int32 [batch, length], for texts, string [batch]."""
    return self.arrange([self.tokenize(texts)])

  def arrange(self, columns: Sequence[tf.RaggedTensor]) -> dict[str, tf.Tensor]:
    """Returns the network's inputs, int32 [batch, length], for the tokens of texts."""
    (tokens,) = columns
    return self.pack(head_tail(tokens, max(self.max_length - text.SPECIAL, 0)))


class Windows(PreprocessWrapper):
  """Several sequences of each text; see `cut`."""

  def __init__(self, preprocess: Preprocess, max_windows: int):
    super().__init__(preprocess, f"windows of {max_windows}, overlap {OVERLAP}")
    self.max_windows = max_windows

  def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the network's inputs, int32 [batch, windows, length], for texts, string [batch].

    `windows` is the largest number of windows of a text in the batch. Missing windows are 0, and so is their mask.
    """
    return self.arrange([self.tokenize(texts)])

  def arrange(self, columns: Sequence[tf.RaggedTensor]) -> dict[str, tf.Tensor]:
    """Returns what `__call__` does, for the tokens of texts."""
    (tokens,) = columns
    windows, counts = cut(tokens, max(self.max_length - text.SPECIAL, 1), self.max_windows)
    inputs = self.pack(windows)
    return {
      name: tf.ensure_shape(tf.RaggedTensor.from_row_lengths(x, counts).to_tensor(), [None, None, None])
      for name, x in inputs.items()
    }


def head_tail(tokens: tf.RaggedTensor, length: int) -> tf.RaggedTensor:
  """Returns ragged [batch, (at most length)]: the first and the last tokens of ragged [batch, (tokens)]."""
  first = round(length * HEAD_SHARE)
  counts = tokens.row_lengths()
  head = tf.minimum(counts, first)
  tail = tf.minimum(counts - head, length - first)
  starts = tokens.row_starts()
  # If the text fits, the tail begins where the head ends.
  return _slices(tokens, tf.stack([starts, starts + counts - tail], 1), tf.stack([head, tail], 1)).merge_dims(1, 2)


def cut(tokens: tf.RaggedTensor, length: int, max_windows: int) -> tuple[tf.RaggedTensor, tf.Tensor]:
  """Cuts texts into windows that are evenly spaced from the first token to the last.

  Neighbours share at least `OVERLAP` of their tokens. The exception is a text too long for `max_windows` such windows:
  they lie further apart, and the tokens between them are not read.

  Args:
    tokens: ragged int32 [batch, (tokens)].
    length: tokens of a window. All windows of a text have this length, unless its only one is shorter.
    max_windows: largest number of windows of a text.

  Returns:
    (ragged int32 [windows of all texts, (tokens)]; int64 [batch], the number of windows of each text, at least 1).
  """
  counts = tokens.row_lengths()
  rest = tf.maximum(counts - length, 0)
  step = max(round(length * (1 - OVERLAP)), 1)
  windows = tf.minimum(1 + (rest + step - 1) // step, max_windows)
  number = tf.ragged.range(windows)
  gaps = tf.maximum(windows - 1, 1)
  starts = tokens.row_starts()[:, None] + number * rest[:, None] // gaps[:, None]
  lengths = tf.repeat(tf.minimum(counts, length), windows)
  return _slices(tokens, starts.flat_values, lengths), windows


def num_windows(max_length: int, count: int) -> int:
  """Returns how many windows of `max_length` tokens read a text of `count` tokens whole, special tokens included."""
  return max(-(-(count - text.SPECIAL) // max(max_length - text.SPECIAL, 1)), 1)


def tokens_read(preprocess: Preprocess, counts: np.ndarray) -> np.ndarray:
  """Returns the number of tokens of each text that the network reads, special tokens included, int [n].

  Args:
    preprocess: of texts, with its `max_length`.
    counts: int [n], from `count_tokens`.
  """
  limit = preprocess.max_windows * (preprocess.max_length - text.SPECIAL) + text.SPECIAL
  return counts.clip(max=limit)


def _slices(tokens, starts, lengths):
  """Returns ragged [.., (lengths)]: the values of `tokens` from `starts` on."""
  ranges = tf.ragged.range(tf.reshape(starts, [-1]), tf.reshape(starts + lengths, [-1]))
  slices = ranges.with_flat_values(tf.gather(tokens.flat_values, ranges.flat_values))
  return slices if starts.shape.rank == 1 else tf.RaggedTensor.from_uniform_row_length(slices, starts.shape[1])
