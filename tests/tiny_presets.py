"""Tiny KerasHub presets of random weights, written to disk."""

import io

import keras
import tiny_data
import tiny_modules

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "##s", "dog"]


def bert(path, words=WORDS, kind="Bert", layers=2, lowercase=True, dropout=0.1):
  """Writes a BERT (or `kind` "DistilBert") preset, 8 wide, that reads 32 tokens; returns its path as str."""
  from keras_hub import models

  keras.utils.set_random_seed(0)
  network = getattr(models, f"{kind}Backbone")(
    vocabulary_size=len(words),
    num_layers=layers,
    num_heads=2,
    hidden_dim=8,
    intermediate_dim=16,
    max_sequence_length=32,
    dropout=dropout,
  )
  network.save_to_preset(str(path))
  getattr(models, f"{kind}Tokenizer")(vocabulary=words, lowercase=lowercase).save_to_preset(str(path))
  return str(path)


def reviews_run(root):
  """Writes a BERT preset and reviews it can learn below the path `root`; returns these flags of a run as a dict."""
  return {
    "backbone": bert(root / "bert", list(tiny_modules.VOCABULARY), layers=1),
    "dataset": "table:" + tiny_data.reviews(root / "reviews.csv"),
    "cache_dir": str(root / "cache"),
  }


def sentence_piece(path, kind):
  """Writes a preset of `kind` "XLMRoberta" or "DebertaV3" with a vocabulary of pieces in several alphabets.

  Returns:
    (its path as str, function: text -> list of the ids that sentencepiece itself gives).
  """
  import sentencepiece
  from keras_hub import models

  keras.utils.set_random_seed(0)
  texts = [
    "the cat sat on the mat",
    "我 喜欢 北京",
    "今天天气很好",
    "café naïve straße",
    "привет мир",
    "مرحبا بالعالم",
  ] * 10
  names = {"unk_piece": "[UNK]", "pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
  special = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "user_defined_symbols": "[MASK]"} | names
  proto = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=proto,
    vocab_size=90,
    hard_vocab_limit=False,
    minloglevel=2,
    **(special if kind == "DebertaV3" else {}),
  )
  tokenizer = getattr(models, f"{kind}Tokenizer")(proto=proto.getvalue())
  getattr(models, f"{kind}Backbone")(
    vocabulary_size=tokenizer.vocabulary_size(),
    num_layers=2,
    num_heads=2,
    hidden_dim=8,
    intermediate_dim=16,
    max_sequence_length=32,
  ).save_to_preset(str(path))
  tokenizer.save_to_preset(str(path))
  reader = sentencepiece.SentencePieceProcessor(model_proto=proto.getvalue())
  unknown = tokenizer.token_to_id("[UNK]" if kind == "DebertaV3" else "<unk>")
  # XLM-R's ids are those of fairseq, one further.
  shift = 0 if kind == "DebertaV3" else 1
  return str(path), lambda text: [unknown if i == reader.unk_id() else i + shift for i in reader.encode(text)]


def resnet(path, size=64):
  """Writes a ResNet preset of two stacks with BatchNormalization for `size` pixels; returns its path."""
  import keras_hub

  keras.utils.set_random_seed(0)
  keras_hub.models.ResNetBackbone(
    input_conv_filters=[64],
    input_conv_kernel_sizes=[7],
    stackwise_num_filters=[64, 64],
    stackwise_num_blocks=[1, 1],
    stackwise_num_strides=[1, 2],
    block_type="basic_block",
  ).save_to_preset(str(path))
  keras_hub.layers.ResNetImageConverter(
    image_size=(size, size), scale=[1 / 255.0, 2 / 255.0, 3 / 255.0], offset=[-0.5, -0.4, -0.3]
  ).save_to_preset(str(path))
  return str(path)
