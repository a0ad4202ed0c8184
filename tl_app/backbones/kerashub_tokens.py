"""Preprocessing with the tokenizer of a KerasHub preset."""

import hashlib
import json
import typing

import tensorflow as tf

from tl_app.preprocessing import text

if typing.TYPE_CHECKING:
  import keras_hub


def preprocess(tokenizer: "keras_hub.tokenizers.Tokenizer", limit: int) -> text.TokenPreprocess:
  """Returns the preprocessing with a KerasHub tokenizer.

  A WordPiece vocabulary is read by BERT's own rules, which its network was trained with: KerasHub keeps accents when it
  lower-cases, and keeps a no-break space inside a word.

  Args:
    tokenizer: of the preset.
    limit: largest number of tokens that the backbone accepts.
  """
  config = tokenizer.get_config()
  if config.get("suffix_indicator") != "##" or tokenizer.start_token != "[CLS]" or config.get("oov_token") != "[UNK]":
    return KerasHubTokens(tokenizer, limit)
  vocabulary = {token: index for index, token in enumerate(tokenizer.get_vocabulary())}
  accents = True if config["strip_accents"] else None
  return text.WordPiece(vocabulary, config["lowercase"], limit, accents, tokenizer.split_on_cjk)


class KerasHubTokens(text.TokenPreprocess):
  """A KerasHub tokenizer as preprocessing."""

  def __init__(self, tokenizer: "keras_hub.tokenizers.Tokenizer", limit: int):
    """Wraps a tokenizer.

    Args:
      tokenizer: of the preset.
      limit: largest number of tokens that the backbone accepts.
    """
    # RoBERTa, whose start token is <s>, was trained with two separators between the texts of a pair.
    separators = 2 if getattr(tokenizer, "start_token", "") == "<s>" else 1
    end = tokenizer.end_token_id
    # Qwen has no start token; as in GPT-2 and OPT the end token takes its place.
    special = [end if token is None else token for token in (tokenizer.start_token_id, end, tokenizer.pad_token_id)]
    super().__init__("tokens", limit, special, separators)
    vocabulary = hashlib.sha256("\n".join(tokenizer.get_vocabulary()).encode()).hexdigest()
    self.identity = f"{json.dumps(tokenizer.get_config(), sort_keys=True, default=str)} {vocabulary}"
    self._tokenizer = tokenizer
    self.mask_token = -1 if getattr(tokenizer, "mask_token_id", None) is None else int(tokenizer.mask_token_id)
    self.vocabulary_size = int(tokenizer.vocabulary_size())
    # KerasHub's tokenizers return Python lists when they are called eagerly, and ragged tensors in a graph.
    self._tokenize = tf.function(tokenizer.call, [tf.TensorSpec([None], tf.string)])

  def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns ragged int32 [batch, (tokens)] without special tokens for texts, string [batch]."""
    return tf.cast(self._tokenize(texts), tf.int32)
