"""Vocabularies that are learnt from texts."""

import random

import pytest
import tensorflow as tf

from tl_app.preprocessing import text, vocabulary

TEXTS = ["low lower lowest"] * 5 + ["new newer newest, wide widest"] * 3 + ["Café!"]


def tokens_of(learnt, written):
  preprocess = text.WordPiece({token: i for i, token in enumerate(learnt)}, lower=True, limit=64)
  return [learnt[i] for i in preprocess.tokenize(tf.constant([written])).flat_values.numpy()]


def test_frequent_words_are_tokens_and_others_are_spelled():
  learnt = vocabulary.learn(TEXTS, 60)
  assert learnt[:5] == vocabulary.RESERVED and len(set(learnt)) == len(learnt) <= 60
  assert tokens_of(learnt, "The LOWEST".partition(" ")[2]) == ["lowest"]
  assert "".join(part.removeprefix("##") for part in tokens_of(learnt, "wows")) == "wows"
  assert tokens_of(learnt, "cafe!")[-1] == "!" and tokens_of(learnt, "xyz") == ["[UNK]"]


def test_the_size_limits_the_merged_tokens_and_never_the_characters():
  smallest, larger = vocabulary.learn(TEXTS, 1), vocabulary.learn(TEXTS, 36)
  assert all(len(token.removeprefix("##")) == 1 for token in smallest[5:])
  assert len(larger) == 36 and larger[: len(smallest)] == smallest


def test_words_that_are_never_read_teach_nothing():
  """Five words of 2,000 letters of a genome took 16 s, and filled the vocabulary."""
  rng = random.Random(0)
  genomes = ["".join(rng.choice("acgt") for _ in range(length)) for length in (text.MAX_CHARS_PER_WORD + 1, 20_000)]
  assert vocabulary.learn([*TEXTS, *genomes], 60) == vocabulary.learn(TEXTS, 60)
  longest = ["ab" * (text.MAX_CHARS_PER_WORD // 2)] * 2
  assert tokens_of(vocabulary.learn([*TEXTS, *longest], 200), longest[0]) == [longest[0]]


def test_the_order_of_the_texts_does_not_matter():
  assert vocabulary.learn(TEXTS, 50) == vocabulary.learn(iter(TEXTS[::-1]), 50)


@pytest.mark.parametrize("texts", [[], [""], [" \t "]])
def test_without_words_the_reserved_tokens_remain(texts):
  assert vocabulary.learn(texts, 1000) == vocabulary.RESERVED


def test_rare_characters_and_words_are_bounded(monkeypatch):
  monkeypatch.setattr(vocabulary, "MAX_CHARACTERS", 4)
  monkeypatch.setattr(vocabulary, "MAX_WORDS", 2)
  monkeypatch.setattr(vocabulary, "MAX_COUNTED", 3)
  learnt = vocabulary.learn(["aa ab"] * 3 + ["ba", "zz"], 100)
  assert learnt[5:] == ("a", "##a", "##b", "aa", "ab")
