"""Text that is not English: the tokens of the reference, and a run from Chinese classes to the export's answers."""

import csv
import json
import unicodedata

import numpy as np
import pytest
import tensorflow as tf
import tiny_modules
import tiny_presets

from tl_app import backbones, files, workdir
from tl_app.assets import Assets
from tl_app.backbones import bert, kerashub_tokens, saved_model
from tl_app.backbones.spec import BackboneSpec
from tl_app.checking import texts as text_checks
from tl_app.commands import predict, train
from tl_app.config import Config
from tl_app.preprocessing import text
from tl_app.serving import saved_model as serving

PIECES = [
  "[PAD]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "[MASK]",
  *"北京球股票赛天好我市",
  "##京",
  "##票",
  "北京",
  "cafe",
  "café",
  "CAFÉ",
  "Cafe",
]
PIECES += [
  "naive",
  "naïve",
  "strasse",
  "straße",
  "ａ",
  "a",
  "ά",
  "α",
  "สวัสดี",
  "ส",
  "שלום",
  "مرحبا",
  "привет",
  "й",
  "и",
  "😀",
]
PIECES += ["한", "국", "##국", "ᄒ", "##ᅡ", "##ᆫ", "か", "が", "##か", "e", "##e", "1", "##1", "。", ",", "!"]
NASTY = [
  "我在北京, café 好!",
  unicodedata.normalize("NFD", "café naïve CAFÉ がか 한국 ά й"),
  unicodedata.normalize("NFC", "café naïve CAFÉ がか 한국 ά й"),
  "ＣＡＦＥ ａ１！ Ａ",
  "שָׁלוֹם שלום مَرحبا مرحبا \u202bשלום\u202c",
  "😀 👨‍👩‍👧 e\ufe0f ❤️ 🇨🇳",
  "a\u200be a\u200ce a\u200de \ufeffa \u2060a a\u00ade",
  "北京\r\n球赛\r天\u2028好\u0085我\t市",
  "สวัสดี İstanbul ǅ ß ﬁ ΑΣ",
  "㐀\U00020000\U0002f800 々〆 ㈱ 丽",
  "e\u0301\u0302\u0303 \u0301e",
  "",
  "\u200b",
]
RULES = [
  {"lower": True},
  {"lower": False},
  {"lower": True, "strip_accents": False},
  {"lower": False, "strip_accents": True},
  {"lower": False, "split_cjk": False},
]


def reference(lower, strip_accents=None, split_cjk=True):
  """Returns Hugging Face's BERT tokenizer of `PIECES`."""
  tokenizers = pytest.importorskip("tokenizers")
  model = tokenizers.models.WordPiece(
    {piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]", max_input_chars_per_word=100
  )
  found = tokenizers.Tokenizer(model)
  found.normalizer = tokenizers.normalizers.BertNormalizer(
    lowercase=lower, strip_accents=strip_accents, handle_chinese_chars=split_cjk
  )
  found.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  return found


def assert_same(preprocess, expected, strings=NASTY):
  found = preprocess.tokenize(tf.constant(strings)).to_list()
  for string, ids in zip(strings, found):
    assert ids == expected.encode(string, add_special_tokens=False).ids, ascii(string)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
  path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
  path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
  return path


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: ",".join(f"{k}={v}" for k, v in rules.items()))
def test_every_casing_gives_the_reference_ids(vocab, rules):
  assert_same(text.WordPiece(vocab, limit=64, **rules), reference(**rules))


def test_the_rules_are_part_of_the_identity(vocab):
  assert len({text.WordPiece(vocab, limit=64, **rules).identity for rules in RULES}) == len(RULES)


@pytest.mark.parametrize(
  ("written", "rules"),
  [
    ({}, {"lower": True, "strip_accents": None, "split_cjk": True}),
    ({"do_lower_case": False}, {"lower": False, "strip_accents": None, "split_cjk": True}),
    (
      {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False},
      {"lower": True, "strip_accents": False, "split_cjk": False},
    ),
  ],
)
def test_a_hugging_face_directory_says_its_rules(tmp_path, written, rules):
  assert bert.tokenizer_rules(tmp_path) == {"lower": True, "strip_accents": None, "split_cjk": True}
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(written))
  assert bert.tokenizer_rules(tmp_path) == rules
  assert bert.special_tokens({"model_type": "bert"}) == {"special": text.SPECIAL_TOKENS, "separators_between": 1}
  assert bert.special_tokens({"model_type": "mpnet"}) == {"special": ("<s>", "</s>", "<pad>"), "separators_between": 2}


@pytest.mark.parametrize("lower", [True, False])
def test_a_kerashub_vocabulary_is_read_by_the_rules_of_its_network(lower):
  from keras_hub import models

  tokenizer = models.BertTokenizer(vocabulary=PIECES, lowercase=lower)
  assert_same(kerashub_tokens.preprocess(tokenizer, 64), reference(lower))


@pytest.mark.parametrize("lower", [True, False])
def test_a_saved_model_says_its_casing(tmp_path, monkeypatch, lower):
  monkeypatch.setattr(tiny_modules, "VOCABULARY", tuple(PIECES))
  directory = tiny_modules.bert(tmp_path / "bert", lower=lower)
  backbone = saved_model.load(directory, BackboneSpec("tiny", "saved_model", directory))
  assert_same(backbone.preprocess, reference(lower))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["XLMRoberta", "DebertaV3"])
def test_sentence_pieces_are_read_in_the_graph_and_in_the_export(tmp_path, kind):
  pytest.importorskip("sentencepiece")
  path, reference_ids = tiny_presets.sentence_piece(tmp_path / kind, kind)
  backbone = backbones.load(backbones.resolve(path), Assets(offline=True))
  strings = tf.constant(NASTY)
  assert backbone.preprocess.tokenize(strings).to_list() == [reference_ids(string) for string in NASTY]
  holder = tf.Module()
  holder.preprocess = backbone.preprocess
  holder.call = tf.function(backbone.preprocess, input_signature=[tf.TensorSpec([None], tf.string)])
  tf.saved_model.save(holder, str(tmp_path / "out"))
  again, before = tf.saved_model.load(str(tmp_path / "out")).call(strings), backbone.preprocess(strings)
  for name in text.INPUT_NAMES:
    np.testing.assert_array_equal(again[name], before[name])
  trunk, tail = backbone.split("layer_1")
  np.testing.assert_array_equal(tail(trunk(before))["features"], backbone.network(before)["features"])


# A run

SPORT, MONEY = "体育 & 赛", "Économie, «marché»"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  root = tmp_path_factory.mktemp("run")
  preset = tiny_presets.bert(root / "preset", words=PIECES, lowercase=False)
  rng, rows = np.random.default_rng(0), {}
  for i in range(120):
    label, tell = ((SPORT, "球"), (MONEY, "股"))[i % 2]
    letters = [*rng.choice([*"北京天好我市", "café", "😀", "\r\n", "\u200b"], 5), tell, tell, tell]
    rows.setdefault("".join(rng.permutation(letters)), label)
  rows |= {f"{string}{tell * 3}": label for string in NASTY for label, tell in ((SPORT, "球"), (MONEY, "股"))}
  with open(root / "data.csv", "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([("text", "label"), *rows.items()])
  flags = {"recipe": "probe", "head_epochs": 60, "head_learning_rate": 3e-2, "feature_cache": "off", "offline": True}
  config = Config(backbone=preset, dataset=f"table:{root / 'data.csv'}", **flags)
  return train.train_and_evaluate(config, root / "work"), root / "work"


@pytest.mark.slow
def test_a_run_learns_from_chinese_characters(run):
  metrics, _ = run
  assert metrics["test"]["accuracy"] > 0.85
  assert metrics["parity"]["label_flips"] == 0


@pytest.mark.slow
def test_names_of_classes_survive_in_every_file(run, tmp_path):
  metrics, work = run
  assert set(metrics["test"]["per_class"]) == {SPORT, MONEY}
  assert (work / "export/assets" / serving.LABELS).read_text(encoding="utf-8").splitlines() == sorted([SPORT, MONEY])
  with open(work / "predictions_test.csv", encoding="utf-8", newline="") as file:
    assert {row["label"] for row in csv.DictReader(file)} == {SPORT, MONEY}
  page = (work / "report.html").read_text(encoding="utf-8")
  assert "体育 &amp; 赛" in page and MONEY in page
  assert SPORT in (work / "plan.json").read_text(encoding="utf-8")
  assert files.read_json(work / "export" / workdir.EXPORT_FACTS)["class_names"] == sorted([SPORT, MONEY])
  asked, answered = tmp_path / "文.txt", tmp_path / "答.jsonl"
  asked.write_text("北京球球球天\n市股股股好\n" + "\n".join(s for s in NASTY if s.split() == [s]), encoding="utf-8")
  predict.predict(str(work / "export"), str(asked), str(answered))
  answers = [json.loads(line) for line in answered.read_text(encoding="utf-8").splitlines()]
  assert [answer["label"] for answer in answers[:2]] == [SPORT, MONEY]


def test_a_name_within_a_text_without_spaces_is_found():
  assert text_checks.holds_name("体育", "今天体育新闻") and text_checks.holds_name("cat", "the cat sat")
  assert not text_checks.holds_name("cat", "concatenate")
