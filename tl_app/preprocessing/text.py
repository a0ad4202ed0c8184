"""Texts to model inputs, in the graph: the same ops in training, evaluation and export."""

import hashlib
import pathlib

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from tl_app.errors import UserError

INPUT_NAMES = ("input_word_ids", "input_mask", "input_type_ids")
# BERT's for the start, the end and nothing.
SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[PAD]")
# How many of them a text gets.
SPECIAL = 2

# Google's BERT and Hugging Face's BertTokenizer split around these blocks and leave kana and hangul whole.
_CJK = (
  r"[\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}"
  r"\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}\x{2B820}-\x{2CEAF}\x{2F800}-\x{2FA1F}]"
)
_PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"
_MAX_CHARS_PER_WORD = 100


def bert_words(texts, lower, strip_accents=None, split_cjk=True):
  """Splits texts into words as BERT's basic tokenizer does, by Google's and Hugging Face's rules.

  tensorflow_text's own BasicTokenizer differs: it folds case, turns format characters into spaces and keeps U+00A0
  inside a word.

  Args:
    texts: string [batch], UTF-8; invalid bytes are dropped.
    lower: lower-case.
    strip_accents: whether letters lose their accents; None: as `lower`.
    split_cjk: whether each CJK character is a word.

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


def multiple():
  """Returns what lengths of batches are rounded up to a multiple of.

  8 for the matrix units of a GPU, and for XLA, which compiles for each length. A CPU would only compute more: of
  movie_reviews and banking77 8 fills 87 and 80 % of the padded tokens, 1 fills 98 and 97 %.
  """
  return 8 if tf.config.list_physical_devices("GPU") else 1


def shapes(preprocess):
  """Returns how many lengths the batches of a preprocessing may have; 1 of images and of whole strings."""
  return max(1, -(-getattr(preprocess, "max_length", 0) // multiple()))


def rounded(counts, max_length):
  """Returns the lengths, int [..], that `padded_length` gives batches whose longest texts have `counts` tokens."""
  return np.minimum(-(-counts // multiple()) * multiple(), max_length)


def padded_length(counts, max_length):
  """Returns a batch's length, int32: the largest of `counts`, rounded up by `multiple`, at most `max_length`."""
  longest, step = tf.reduce_max(tf.concat([[1], tf.cast(counts, tf.int32)], axis=0)), multiple()
  return tf.minimum((longest + step - 1) // step * step, max_length)


def pack(tokens, max_length, start, end, pad=0, second=None, between=1):
  """Returns BERT's inputs: [start] tokens [end], or [start] tokens [end] second [end], truncated and padded.

  Args:
    tokens: ragged int32 [batch, (tokens)] without special tokens.
    second: tokens of the second text of each pair, or None. Of the two the longer one is cut, to the other's length.
    between: times that [end] stands between the two (RoBERTa: 2).
    max_length: most tokens of an example, special ones included; at least 2.
    start, end, pad: ids of [CLS], [SEP] and [PAD].

  Returns:
    {"input_word_ids", "input_mask", "input_type_ids"}: int32 [batch, length], with the length of `padded_length`.
  """
  column = tf.ones([tokens.nrows(), 1], tf.int32)
  if second is None:
    tokens = tokens[:, : max_length - 2]
    tokens = segments = tf.concat([column * start, tokens, column * end], axis=1)
    segments = tf.zeros_like(segments)
  else:
    trimmed = tf_text.RoundRobinTrimmer(max(max_length - 2 - between, 1)).trim([tokens, second])
    parts = [tf.concat([column * start, trimmed[0], tf.repeat(column * end, between, axis=1)], axis=1)]
    parts += [tf.concat([trimmed[1], column * end], axis=1)]
    tokens, segments = tf.concat(parts, axis=1), tf.concat([tf.zeros_like(parts[0]), tf.ones_like(parts[1])], axis=1)
  counts = tf.cast(tokens.row_lengths(), tf.int32)
  length = padded_length(counts, max_length)
  # A tensor, not a list: with [None, length] to_tensor takes only a Python int, and -1 means what None means.
  shape = tf.cast(tf.stack([-1, length]), tokens.row_splits.dtype)
  ids = tf.ensure_shape(tokens.to_tensor(default_value=pad, shape=shape), [None, None])
  return {
    "input_word_ids": ids,
    "input_mask": tf.sequence_mask(counts, length, tf.int32),
    "input_type_ids": tf.ensure_shape(segments.to_tensor(shape=shape), [None, None]),
  }


def read_vocabulary(path, special=SPECIAL_TOKENS):
  """Returns {token: id} of a BERT vocab file: one token a line, UTF-8, the id is the line's number from 0.

  Raises:
    UserError: the file cannot be read, or lacks [UNK] or one of `special`.
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


class WordPiece(tf.Module):
  """BERT's preprocessing from a vocabulary.

  Attributes:
    max_length: most tokens of an example, special ones included; settable until the first trace.
    limit: longest input that the backbone reads, in tokens.
    identity: what tells two preprocessings apart: two with the same give the same tokens.
    between: separators between the texts of a pair.
  """

  joins_pairs = packs = True

  def __init__(self, vocabulary, lower, limit, strip_accents=None, split_cjk=True, special=SPECIAL_TOKENS, between=1):
    """Reads the vocabulary into an in-graph table, which an export carries along.

    Args:
      vocabulary: path of a BERT vocab file, or what `read_vocabulary` gives.
      lower: lower-case (`do_lower_case`).
      limit: longest input of the backbone, in tokens.
      strip_accents, split_cjk: see `bert_words`.
      special: the tokens for the start, the end and nothing.
      between: see `pack`.

    Raises:
      UserError: the vocabulary cannot be used.
    """
    super().__init__(name="word_piece")
    vocabulary = vocabulary if isinstance(vocabulary, dict) else read_vocabulary(vocabulary, special)
    self.limit = self.max_length = int(limit)
    self._rules = {"lower": bool(lower)}
    if strip_accents is not None and strip_accents != lower:
      self._rules["strip_accents"] = bool(strip_accents)
    if not split_cjk:
      self._rules["split_cjk"] = False
    digest = hashlib.sha256("\n".join(vocabulary).encode()).hexdigest()
    ends = [] if (special, between) == (SPECIAL_TOKENS, 1) else [*special, str(between)]
    self.identity = " ".join(["word_piece", *(f"{rule}={on}" for rule, on in self._rules.items()), *ends, digest])
    self._start, self._end, self._pad = (vocabulary[token] for token in special)
    self.between = between
    keys, values = tf.constant(list(vocabulary)), tf.constant(list(vocabulary.values()), tf.int64)
    self._table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), vocabulary["[UNK]"])
    self._pieces = tf_text.WordpieceTokenizer(
      self._table, max_bytes_per_word=4 * _MAX_CHARS_PER_WORD, token_out_type=tf.int64
    )

  @property
  def special_tokens(self):
    """Ids of the tokens that stand for the start, the end, and nothing."""
    return self._start, self._end, self._pad

  def tokenize(self, texts):
    """Returns ragged int32 [batch, (tokens)], without special tokens, of string [batch]."""
    return self._tokenize_words(bert_words(texts, **self._rules))

  def __call__(self, texts):
    """Returns BERT's inputs (see `pack`) of string [batch]."""
    # A word is at least one token, so words beyond max_length cannot matter.
    return self.pack(self._tokenize_words(bert_words(texts, **self._rules)[:, : self.max_length]))

  def pack(self, tokens):
    """Returns BERT's inputs (see `pack`) of what `tokenize` gives, or parts of it."""
    return pack(tokens, self.max_length, self._start, self._end, self._pad)

  def join(self, first, second):
    """Returns BERT's inputs (see `pack`) of pairs of texts, string [batch] each."""
    first, second = (self._tokenize_words(bert_words(t, **self._rules)[:, : self.max_length]) for t in (first, second))
    return pack(first, self.max_length, self._start, self._end, self._pad, second, self.between)

  def count_tokens(self, texts):
    """Returns int32 [batch]: tokens of string [batch], special ones included, nothing truncated."""
    return tf.cast(self.tokenize(texts).row_lengths(), tf.int32) + SPECIAL

  def _tokenize_words(self, words):
    too_long = tf.strings.length(words.flat_values, "UTF8_CHAR") > _MAX_CHARS_PER_WORD
    words = words.with_flat_values(tf.where(too_long, "[UNK]", words.flat_values))
    return tf.cast(self._pieces.tokenize(words).merge_dims(1, 2), tf.int32)


class TwinPreprocess(tf.Module):
  """A TF Hub preprocessing module, its output trimmed to the longest text of the batch.

  Attributes:
    max_length: most tokens of an example, special ones included; settable until the first trace.
    limit: longest input that the backbone reads, in tokens, or the fixed length of a twin that has only one.
    identity: what tells two preprocessings apart.
    packs: whether `pack` is there: not with a fixed-length twin.
  """

  def __init__(self, module, limit, identity):
    """Wraps a loaded module: `tokenize` and `bert_pack_inputs` where it has them, else its `__call__`.

    Args:
      module: what `tf.saved_model.load` gave; string [batch] -> {"input_word_ids", "input_mask", "input_type_ids"}.
      limit: longest input of the backbone, in tokens; 0 where it tells none.
      identity: sha256 of the module.

    Raises:
      UserError: the module is no text preprocessing.
    """
    super().__init__(name="twin")
    self._module = module
    self.identity = f"twin {identity}"
    self.packs = callable(getattr(module, "tokenize", None)) and callable(getattr(module, "bert_pack_inputs", None))
    fixed = self._fixed_length()
    self.limit = int(limit) or fixed
    if not self.packs:
      self.limit = min(self.limit, fixed)
    self.max_length = self.limit

  def tokenize(self, texts):
    """Returns ragged int32 [batch, (tokens)], without special tokens, of string [batch]."""
    if not self.packs:
      inputs = self._module(texts)
      ids = tf.ragged.boolean_mask(inputs["input_word_ids"], tf.cast(inputs["input_mask"], tf.bool))
      return ids[:, 1:-1]
    tokens = self._module.tokenize(texts)
    return tokens.merge_dims(1, -1) if tokens.shape.rank > 2 else tokens

  @property
  def joins_pairs(self):
    """Whether `join` is there: not with a fixed-length twin, nor with one whose packing takes one text only."""
    if not self.packs:
      return False
    try:
      self.join(tf.constant(["a"]), tf.constant(["a"]))
    except (TypeError, ValueError, tf.errors.OpError):
      return False
    return True

  def __call__(self, texts):
    """Returns BERT's inputs, int32 [batch, length], of string [batch]."""
    if self.packs:
      return self.pack(self.tokenize(texts))
    return self._trimmed(self._truncated(self._module(texts)))

  def pack(self, tokens):
    """Returns BERT's inputs, int32 [batch, length], of what `tokenize` gives, or parts of it."""
    return self._pack([tokens])

  def join(self, first, second):
    """Returns BERT's inputs, int32 [batch, length], with segment ids, of pairs of texts, string [batch] each."""
    return self._pack([self.tokenize(first), self.tokenize(second)])

  def _pack(self, segments):
    return self._trimmed(self._module.bert_pack_inputs(segments, tf.constant(self.max_length)))

  def _trimmed(self, inputs):
    length = padded_length(tf.reduce_sum(inputs["input_mask"], axis=1), self.max_length)
    return {name: tf.ensure_shape(inputs[name][:, :length], [None, None]) for name in INPUT_NAMES}

  def count_tokens(self, texts):
    """Returns int32 [batch]: tokens of string [batch], special ones included; truncated only by a fixed-length twin."""
    return tf.cast(self.tokenize(texts).row_lengths(), tf.int32) + SPECIAL

  def _truncated(self, inputs):
    counts = tf.reduce_sum(inputs["input_mask"], axis=1, keepdims=True)
    ids = inputs["input_word_ids"]
    ends = tf.gather(ids, tf.maximum(counts - 1, 0), batch_dims=1)
    last = tf.where(counts > self.max_length, ends, ids[:, self.max_length - 1 : self.max_length])
    inputs = {name: inputs[name][:, : self.max_length] for name in INPUT_NAMES}
    ids = tf.concat([inputs["input_word_ids"][:, :-1], last], axis=1)
    return {**inputs, "input_word_ids": ids}

  def _fixed_length(self):
    try:
      inputs = self._module(tf.constant(["a"]))
      return int(inputs["input_word_ids"].shape[1])
    except (TypeError, ValueError, KeyError, AttributeError, tf.errors.OpError):
      raise UserError(
        f"--preprocessor is no text preprocessing module: it must turn strings into {', '.join(INPUT_NAMES)}"
      ) from None


class Around(tf.Module):
  """A preprocessing around another one, with its length and its tokens.

  Attributes:
    max_length, limit: of the sequence that the network reads.
    identity: what tells two preprocessings apart.
    max_windows: most sequences of a text.
  """

  def __init__(self, preprocess, does):
    super().__init__(name="around")
    self._preprocess = preprocess
    self.limit = preprocess.limit
    self.max_windows = windows_of(preprocess)
    self.identity = f"{does} {preprocess.identity}"

  @property
  def max_length(self):
    return self._preprocess.max_length

  @max_length.setter
  def max_length(self, value):
    self._preprocess.max_length = value

  def tokenize(self, texts):
    """Returns ragged int32 [batch, (tokens)], without special tokens, of string [batch]."""
    return self._preprocess.tokenize(texts)

  def pack(self, tokens):
    """Returns the network's inputs, int32 [batch, length], of ragged int32 [batch, (tokens)]."""
    return self._preprocess.pack(tokens)

  def count_tokens(self, texts):
    """Returns int32 [batch]: tokens of string [batch], special ones included, nothing cut."""
    return self._preprocess.count_tokens(texts)


def windows_of(preprocess):
  """Returns the most sequences that a preprocessing makes of a text."""
  return getattr(preprocess, "max_windows", 1)


class RawStrings(tf.Module):
  """The preprocessing of a module that takes strings itself (NNLM, Universal Sentence Encoder): none.

  Attributes:
    max_length, limit: 0; the module reads texts of any length.
    identity: what tells two preprocessings apart.
  """

  def __init__(self):
    super().__init__(name="raw_strings")
    self.identity = "raw_strings"
    self.limit = self.max_length = 0

  def __call__(self, texts):
    """Returns string [batch] as it is."""
    return tf.ensure_shape(texts, [None])

  def count_tokens(self, texts):
    """Returns int32 [batch]: words between white space of string [batch]."""
    return tf.cast(tf.strings.split(texts).row_lengths(), tf.int32)
