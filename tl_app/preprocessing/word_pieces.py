"""Texts that are split into words, each word into subwords: the preprocessing of an output for each word."""

import tensorflow as tf

from tl_app.preprocessing import text
from tl_app.preprocessing.base import Preprocess, PreprocessWrapper

STARTS = "input_starts"
# Read in place of a word without a subword of its own, such as a lone control character.
_FILLER = "*"


class SplitWords(PreprocessWrapper):
  """Tokenizes each word of a text by itself and records its first subword. White space separates words."""

  def __init__(self, preprocess: Preprocess):
    """Wraps a preprocessing.

    Args:
      preprocess: with `tokenize` and `special_tokens`, such as `text.WordPiece`.
    """
    super().__init__(preprocess, "words")
    self._filler = int(preprocess.tokenize(tf.constant([_FILLER])).flat_values[0])
    # Traced once: every new data set reads its texts by it.
    self._split = tf.function(self._subwords, [tf.RaggedTensorSpec([None, None], tf.string, 1)])

  def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns ragged int32 [batch, (subwords)] without special tokens for texts, string [batch]."""
    return self._split(tf.strings.split(texts))[0]

  def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns BERT's inputs (see `text.pack`) and "input_starts" for texts, string [batch].

    "input_starts" is int32 [batch, length], 1 at the first subword of each word that is read, else 0.
    """
    subwords, starts = self._read(texts)
    inputs = text.pack(subwords, self.max_length, self._preprocess.special_tokens)
    batch, length = tf.unstack(tf.shape(inputs["input_mask"], tf.int64))
    # The first position is [CLS]. A text has two special tokens, so its last position is no start either.
    first = tf.pad(starts[:, : self.max_length - 2].to_tensor(shape=tf.stack([batch, length - 1])), [[0, 0], [1, 0]])
    return inputs | {STARTS: tf.ensure_shape(first, [None, None])}

  def count_tokens(self, texts: tf.Tensor) -> tf.Tensor:
    """Returns the number of subwords of each text before truncation, special tokens included, int32 [batch]."""
    return tf.cast(self.tokenize(texts).row_lengths(), tf.int32) + text.SPECIAL

  def count_words(self, texts: tf.Tensor) -> tf.Tensor:
    """Returns int32 [batch, 2]: the number of words of each text, and how many of them are read."""
    _, starts = self._read(texts)
    read = tf.reduce_sum(starts[:, : self.max_length - 2], axis=1)
    return tf.stack([tf.cast(tf.strings.split(texts).row_lengths(), tf.int32), read], axis=1)

  def _read(self, texts):
    # A word has at least one subword, so words beyond max_length are never read.
    return self._split(tf.strings.split(texts)[:, : self.max_length])

  def _subwords(self, words):
    """Returns (subwords, 1 at the first of each word), ragged int32 [batch, (subwords)], of ragged string [batch,
    (words)].

    A byte-pair vocabulary has other subwords for words that follow a space; other vocabularies ignore it.
    """
    subwords = self._preprocess.tokenize(tf.strings.join([" ", words.flat_values]))
    missing = tf.cast(subwords.row_lengths() == 0, tf.int64)
    counts = subwords.row_lengths() + missing
    ends = tf.cumsum(counts)
    count = tf.reduce_sum(counts)
    # A filler stands in each empty word; the subwords after it move back by one.
    positions = tf.range(count - tf.reduce_sum(missing)) + tf.gather(tf.cumsum(missing), subwords.value_rowids())
    tokens = tf.tensor_scatter_nd_update(tf.fill([count], self._filler), positions[:, None], subwords.flat_values)
    starts = tf.scatter_nd((ends - counts)[:, None], tf.ones_like(ends, tf.int32), [count])
    splits = tf.gather(tf.concat([[0], ends], axis=0), words.row_splits)
    return [tf.RaggedTensor.from_row_splits(values, splits, validate=False) for values in (tokens, starts)]
