"""SentencePiece's unigram tokenizer from subwords and scores, for texts of XLM-RoBERTa's vocabulary."""

import dataclasses
import hashlib
import struct

import tensorflow as tf
import tensorflow_text as tf_text

from tl_app.preprocessing import text

# Values of sentencepiece_model.proto: the model type, and the types of subwords.
_UNIGRAM = 1
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
# XLM-RoBERTa has two end tokens between the texts of a pair.
_SEPARATORS_BETWEEN = 2
# A table of replaced characters without an entry: a search tree of 256 zeros, and its texts. Without one SentencePiece
# writes a line to standard error each time it is loaded.
_NO_CHARACTERS = struct.pack("<I", 1024) + bytes(1024 + 1)
# Stands for "not in the table" in the lookup of characters; the table maps it to nothing.
_UNMAPPED = "\x00"


@dataclasses.dataclass(frozen=True)
class Subwords:
  """A vocabulary of SentencePiece.

  Attributes:
    subwords: the piece of each token id.
    scores: the logarithm of the probability of each piece.
    start, end, pad, unknown: ids of the special tokens.
    characters: {character: the characters that replace it before the text is split}.
  """

  subwords: tuple[str, ...]
  scores: tuple[float, ...]
  start: int
  end: int
  pad: int
  unknown: int
  characters: dict[str, str]

  def model(self) -> bytes:
    """Returns the serialized `ModelProto` with which SentencePiece reads texts; it normalises only white space."""
    special = {self.unknown: _UNKNOWN, self.start: _CONTROL, self.end: _CONTROL, self.pad: _CONTROL}
    special |= {index: _CONTROL for index, piece in enumerate(self.subwords) if piece == "<mask>"}
    parts = []
    for index, (piece, score) in enumerate(zip(self.subwords, self.scores)):
      kind = special.get(index, _NORMAL)
      content = _bytes(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind)
      parts.append(_bytes(1, content))
    trainer = _number(3, _UNIGRAM) + _number(4, len(self.subwords))
    trainer += _number(40, self.unknown) + _number(41, self.start) + _number(42, self.end) + _number(43, self.pad)
    normalizer = _bytes(1, b"identity") + _bytes(2, _NO_CHARACTERS) + b"".join(_number(field, 1) for field in (3, 4, 5))
    return b"".join(parts) + _bytes(2, trainer) + _bytes(3, normalizer)


class SentencePiece(text.TokenPreprocess):
  """SentencePiece's unigram tokenizer."""

  def __init__(self, subwords: Subwords, limit: int):
    """Reads the subwords into a tokenizer of the graph, which is saved with the export.

    Args:
      subwords: the vocabulary.
      limit: largest number of tokens that the backbone accepts.
    """
    super().__init__("sentence_piece", limit, (subwords.start, subwords.end, subwords.pad), _SEPARATORS_BETWEEN)
    model = subwords.model()
    mapped = {_UNMAPPED: "", **subwords.characters}
    digest = hashlib.sha256(model + repr(sorted(mapped.items())).encode()).hexdigest()
    self.identity = f"sentence_piece {digest}"
    self.mask_token = subwords.subwords.index("<mask>") if "<mask>" in subwords.subwords else -1
    self.vocabulary_size = len(subwords.subwords)
    keys, values = tf.constant(list(mapped)), tf.constant(list(mapped.values()))
    self._table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), _UNMAPPED)
    self._tokenizer = tf_text.SentencepieceTokenizer(model, out_type=tf.int32)

  def normalize(self, texts: tf.Tensor) -> tf.Tensor:
    """Returns texts, string [batch], with characters replaced and accents joined to their letters."""
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
    characters = tf.strings.unicode_split(texts, "UTF-8")
    found = self._table.lookup(characters.flat_values)
    replaced = tf.where(found == _UNMAPPED, characters.flat_values, found)
    joined = tf.strings.reduce_join(characters.with_flat_values(replaced), axis=-1)
    # The table has single characters; SentencePiece's own one joins an accent that is a character of its own too.
    return tf_text.normalize_utf8(joined, "NFC")

  def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns ragged int32 [batch, (tokens)] without special tokens for texts, string [batch]."""
    return self._tokenizer.tokenize(self.normalize(texts))


def _varint(value):
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes([*out, value])


def _number(field, value):
  """Returns a field of a protocol buffer that holds an integer."""
  return _varint(field << 3) + _varint(value)


def _bytes(field, value):
  """Returns a field of a protocol buffer that holds bytes."""
  return _varint(field << 3 | 2) + _varint(len(value)) + value
