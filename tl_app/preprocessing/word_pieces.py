"""Texts as words, each of them as word pieces, in the graph: what a tag for each word needs."""

import tensorflow as tf

from tl_app.preprocessing import text
from tl_app.preprocessing.base import PreprocessWrapper

STARTS = "input_starts"
# Read in place of a word that has no piece of its own, such as a lone control character.
_FILLER = "*"


class Words(PreprocessWrapper):
  """The preprocessing of a network of tokens, word by word. Words are what white space separates."""

  def __init__(self, preprocess):
    """Args:
    preprocess: `text.WordPiece`, or what has its `tokenize` and `special_tokens`.
    """
    super().__init__(preprocess, "words")
    self._filler = int(preprocess.tokenize(tf.constant([_FILLER])).flat_values[0])
    # Traced once: every new data set reads its texts by it.
    self._cut = tf.function(self._pieces, [tf.RaggedTensorSpec([None, None], tf.string, 1)])

  def tokenize(self, texts):
    """Returns ragged int32 [batch, (pieces)], without special tokens, of string [batch]."""
    return self._cut(tf.strings.split(texts))[0]

  def __call__(self, texts):
    """Returns BERT's inputs (see `text.pack`) of string [batch], and "input_starts".

    "input_starts" is int32 [batch, length], 1 at the first piece of each word that is read, else 0.
    """
    pieces, starts = self._read(texts)
    inputs = text.pack(pieces, self.max_length, *self._preprocess.special_tokens)
    batch, length = tf.unstack(tf.shape(inputs["input_mask"], tf.int64))
    # The first position is [CLS]; a text has two special tokens, so that the last one is no start either.
    marks = tf.pad(starts[:, : self.max_length - 2].to_tensor(shape=tf.stack([batch, length - 1])), [[0, 0], [1, 0]])
    return inputs | {STARTS: tf.ensure_shape(marks, [None, None])}

  def count_tokens(self, texts):
    """Returns int32 [batch]: pieces of string [batch], special ones included, nothing truncated."""
    return tf.cast(self.tokenize(texts).row_lengths(), tf.int32) + 2

  def count_words(self, texts):
    """Returns int32 [batch, 2]: how many words string [batch] have, and how many of them are read."""
    _, starts = self._read(texts)
    read = tf.reduce_sum(starts[:, : self.max_length - 2], axis=1)
    return tf.stack([tf.cast(tf.strings.split(texts).row_lengths(), tf.int32), read], axis=1)

  def _read(self, texts):
    # A word is at least one piece, so words beyond max_length cannot matter.
    return self._cut(tf.strings.split(texts)[:, : self.max_length])

  def _pieces(self, words):
    """Returns (pieces, 1 at the first of each word), ragged int32 [batch, (pieces)], of ragged string [batch, (words)].

    A byte-pair vocabulary has other pieces for words after a space; to the others the space is nothing.
    """
    pieces = self._preprocess.tokenize(tf.strings.join([" ", words.flat_values]))
    missing = tf.cast(pieces.row_lengths() == 0, tf.int64)
    counts = pieces.row_lengths() + missing
    ends = tf.cumsum(counts)
    count = tf.reduce_sum(counts)
    # Fillers stand among the pieces, which move behind those before them.
    places = tf.range(count - tf.reduce_sum(missing)) + tf.gather(tf.cumsum(missing), pieces.value_rowids())
    tokens = tf.tensor_scatter_nd_update(tf.fill([count], self._filler), places[:, None], pieces.flat_values)
    starts = tf.scatter_nd((ends - counts)[:, None], tf.ones_like(ends, tf.int32), [count])
    splits = tf.gather(tf.concat([[0], ends], axis=0), words.row_splits)
    return [tf.RaggedTensor.from_row_splits(values, splits, validate=False) for values in (tokens, starts)]
