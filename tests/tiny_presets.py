"""Tiny KerasHub presets of random weights, written to disk."""

import keras

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "##s", "dog"]


def bert(path, words=WORDS, kind="Bert", layers=3):
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
  )
  network.save_to_preset(str(path))
  getattr(models, f"{kind}Tokenizer")(vocabulary=words, lowercase=True).save_to_preset(str(path))
  return str(path)


def resnet(path, size=64):
  """Writes a ResNet preset of two stacks with BatchNormalization for `size` pixels; returns its path."""
  import keras_hub

  keras.utils.set_random_seed(0)
  keras_hub.models.ResNetBackbone(
    input_conv_filters=[64],
    input_conv_kernel_sizes=[7],
    stackwise_num_filters=[64, 64],
    stackwise_num_blocks=[1, 2],
    stackwise_num_strides=[1, 2],
    block_type="basic_block",
  ).save_to_preset(str(path))
  keras_hub.layers.ResNetImageConverter(
    image_size=(size, size), scale=[1 / 255.0, 2 / 255.0, 3 / 255.0], offset=[-0.5, -0.4, -0.3]
  ).save_to_preset(str(path))
  return str(path)
