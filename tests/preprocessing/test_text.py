"""Text preprocessing agrees with the reference tokenizers and packs what BERT reads."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_modules

from tl_app.backbones import saved_model
from tl_app.errors import UserError
from tl_app.preprocessing import text

PIECES = [
  "[PAD]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "hello",
  "wor",
  "##ld",
  "naive",
  "cafe",
  "caf\u00e9",
  "\u5317",
  "\u4eac",
  ",",
  "a",
]
PIECES += ["b", "##b", "x", "$", "[", "]", "unk", "Hello", "na\u00efve", "s", "stra\u00dfe", "\U0001f600"]
NASTY = [
  "",
  " \t\r\n",
  "Hello WORLD, na\u00efve caf\u00e9",
  "nai\u0308ve cafe\u0301",
  "\u5317\u4eacx\u5317",
  "a\u00a0b\u3000a\u2003b",
  "a\u200bb a\u00adb \ufeffa",
  "a\x00b a\x07b \x85 a\u2028b",
  "x" * 101 + " a",
  "a" + "b" * 99 + " " + "a" + "b" * 100,
  "$a$[b]",
  "[UNK] [CLS]",
  "\ufffd \ue000 a",
  "\U0001f600 \U0001f468\u200d\U0001f469 stra\u00dfe",
  "hello world " * 25_000,
]


@pytest.fixture
def vocab(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
  return path


@pytest.mark.parametrize("lower", [True, False])
def test_word_piece_gives_the_reference_ids(vocab, lower):
  tokenizers = pytest.importorskip("tokenizers")
  model = tokenizers.models.WordPiece(
    {piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]", max_input_chars_per_word=100
  )
  reference = tokenizers.Tokenizer(model)
  reference.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lower)
  reference.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  ids = text.WordPiece(vocab, lower, 512).tokenize(tf.constant(NASTY)).to_list()
  for string, got in zip(NASTY, ids):
    assert got == reference.encode(string, add_special_tokens=False).ids, ascii(string[:40])


def test_pack_truncates_pads_to_sixteen_and_keeps_the_specials(vocab):
  preprocess = text.WordPiece(vocab, True, 40)
  texts = tf.constant(["hello world", "", "a " * 30])
  inputs = tf.function(preprocess)(texts)
  assert {name: (value.dtype, value.shape) for name, value in inputs.items()} == dict.fromkeys(
    text.INPUT_NAMES, (tf.int32, [3, 32])
  )
  assert inputs["input_word_ids"][0].numpy().tolist() == [2, 4, 5, 6, 3] + [0] * 27
  assert inputs["input_mask"].numpy().sum(axis=1).tolist() == [5, 2, 32]
  assert preprocess.count_tokens(texts).numpy().tolist() == [5, 2, 32]
  preprocess.max_length = 7
  short = preprocess(texts)
  assert short["input_word_ids"][2].numpy().tolist() == [2, 13, 13, 13, 13, 13, 3]
  assert preprocess(tf.constant([""]))["input_word_ids"].numpy()[0].tolist()[:2] == [2, 3]
  assert preprocess.count_tokens(texts).numpy().tolist() == [5, 2, 32]


@pytest.mark.parametrize("gpus, lengths", [([], [1, 5, 9, 20]), (["GPU:0"], [8, 8, 16, 20])])
def test_a_cpu_fills_up_to_the_longest_text_and_a_gpu_to_a_multiple_of_8(monkeypatch, gpus, lengths):
  monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
  assert [int(text.padded_length(counts, 20)) for counts in ([], [5, 2], [9], [30])] == lengths


def test_batches_without_texts_and_invalid_utf8_pass(vocab):
  preprocess = text.WordPiece(vocab, True, 40)
  assert preprocess(tf.constant([], tf.string))["input_word_ids"].shape == (0, text.multiple())
  ids = preprocess(tf.constant([b"hello \xff\xfe a \xc3"]))["input_word_ids"].numpy()[0]
  assert ids[:4].tolist() == [2, 4, 13, 3]


def test_a_vocabulary_keeps_line_numbers_and_must_have_the_specials(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_bytes("[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\nx\u2028y\r\na\r\n".encode())
  assert text.read_vocabulary(path)["a"] == 5
  path.write_text("a\nb\n")
  with pytest.raises(UserError, match=r"has no \[PAD\]"):
    text.WordPiece(path, True, 8)
  with pytest.raises(UserError, match="cannot be read"):
    text.WordPiece(tmp_path / "none.txt", True, 8)


@pytest.mark.slow
@pytest.mark.parametrize("packs", [True, False])
def test_preprocessing_models_give_what_the_vocabulary_gives(tmp_path, packs):
  directory = tiny_modules.bert_preprocess(tmp_path / "hub_preprocess", packs=packs)
  hub = text.HubPreprocess(saved_model.read(directory).module, 24, identity="t")
  own = text.WordPiece(str(directory) + "_vocab.txt", True, 24)
  assert hub.limit == (24 if packs else 12)
  texts = tf.constant(["the film is good", "", "the " * 9, "bad"])
  assert hub.count_tokens(texts).numpy().tolist() == [6, 2, 11, 3]
  for length in (12, 5):
    hub.max_length = own.max_length = length
    got, wanted = tf.function(hub)(texts), own(texts)
    for name in text.INPUT_NAMES:
      np.testing.assert_array_equal(got[name], wanted[name])


def test_a_module_that_preprocesses_nothing_is_refused(tmp_path):
  module = saved_model.read(tiny_modules.image_map(tmp_path / "map")).module
  with pytest.raises(UserError, match="--preprocessor is no text preprocessing"):
    text.HubPreprocess(module, 24, identity="t")


def test_identities_tell_preprocessings_apart(vocab, tmp_path):
  other = tmp_path / "other.txt"
  other.write_text("\n".join([*PIECES, "more"]) + "\n", encoding="utf-8")
  identities = {text.WordPiece(path, lower, 8).identity for path in (vocab, other) for lower in (True, False)}
  assert len(identities) == 4
  assert text.WordPiece(vocab, True, 8).identity == text.WordPiece(vocab, True, 512).identity


@pytest.mark.slow
def test_the_shared_preprocessing_model_and_its_vocabulary_agree(shared):
  directory = shared("hub/bert_tiny_preprocess")
  hub = text.HubPreprocess(saved_model.read(directory).module, 64, identity="t")
  own = text.WordPiece(directory / "assets/vocab.txt", True, 64)
  texts = tf.constant(["Hello world, the GOOD film!", "", "na\u00efve caf\u00e9 " * 40, "\u5317 x", "a" * 300])
  for length in (64, 10):
    hub.max_length = own.max_length = length
    got, wanted = hub(texts), own(texts)
    for name in text.INPUT_NAMES:
      np.testing.assert_array_equal(got[name], wanted[name])
