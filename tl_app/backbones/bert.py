"""BERT and MPNet as functional Keras models, with the weights of a Hugging Face directory."""

import json
import math
import os
import pathlib
import re
import struct

import keras
import numpy as np
from keras import layers, ops

from tl_app.backbones.weights import Target, assign
from tl_app.errors import UserError
from tl_app.preprocessing import text

# Values of model_type in the config.json of a Hugging Face directory that this module reads.
MODEL_TYPES = ("bert", "mpnet")
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
# Names in a checkpoint that do not belong to the encoder: heads of other tasks, and a constant.
UNUSED = re.compile(r"(cls|classifier|qa_outputs|dropout|lm_head)\.|.*\.position_ids|embeddings\.position_ids")
# MPNet's start, end and padding tokens; two end tokens separate the texts of a pair.
MPNET_TOKENS = {"special": ("<s>", "</s>", "<pad>"), "separators_between": 2}
# MPNet's first row of positions that is used; it follows that of padding. Here positions begin at 0.
MPNET_POSITION = 2
MPNET_NAMES = (
  (r"attention\.attn\.q\.", "attention.self.query."),
  (r"attention\.attn\.k\.", "attention.self.key."),
  (r"attention\.attn\.v\.", "attention.self.value."),
  (r"attention\.attn\.o\.", "attention.output.dense."),
  (r"attention\.LayerNorm\.", "attention.output.LayerNorm."),
)
# End of the name of a layer's terms for distances.
RELATIVE_BIAS = "attention.relative_bias"
# {pooling: its flag in a sentence-transformers directory}.
POOLING_MODES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
# Distances from here on share a bucket (`_distances`).
FAR = 128


def gelu(x):
  """Returns the exact gelu of a tensor, in float32."""
  # By the error function, and in float32 whatever the precision of the layers around it: on a CPU this takes four
  # fifths of the time of TensorFlow's own gelu, and less than half of its time in bfloat16.
  x = ops.cast(x, "float32")
  return x * (0.5 + 0.5 * ops.erf(x * math.sqrt(0.5)))


# Hugging Face's names. "gelu" is the exact function, not the tanh approximation of KerasHub's BERT.
ACTIVATIONS = {"gelu": gelu, "relu": ops.relu, "gelu_new": ops.gelu, "gelu_pytorch_tanh": ops.gelu}


def is_directory(directory: str | os.PathLike) -> bool:
  """Returns whether a directory is Hugging Face's, with weights and vocabulary of a model of `MODEL_TYPES`."""
  directory = pathlib.Path(directory)
  if not all((directory / name).is_file() for name in ("config.json", "model.safetensors", "vocab.txt")):
    return False
  return read_config(directory).get("model_type") in MODEL_TYPES


def tokenizer_rules(directory: str | os.PathLike) -> dict[str, bool | None]:
  """Returns {"lower", "strip_accents", "split_cjk"} of a Hugging Face directory; see `text.bert_words`."""
  path = pathlib.Path(directory) / "tokenizer_config.json"
  config = _json(path) if path.is_file() else {}
  return {
    "lower": bool(config.get("do_lower_case", True)),
    "strip_accents": config.get("strip_accents"),
    "split_cjk": bool(config.get("tokenize_chinese_chars", True)),
  }


def special_tokens(config: dict) -> dict:
  """Returns {"special", "separators_between"} for a Hugging Face configuration; see `text.WordPiece`."""
  return MPNET_TOKENS if is_mpnet(config) else {"special": text.SPECIAL_TOKENS, "separators_between": 1}


def read_config(directory: str | os.PathLike) -> dict:
  """Returns the contents of config.json of a Hugging Face directory. Raises `UserError` if it is damaged."""
  return _json(pathlib.Path(directory) / "config.json")


def load(directory: str | os.PathLike) -> keras.Model:
  """Loads the encoder of a Hugging Face directory with its weights.

  Args:
    directory: with config.json and model.safetensors.

  Returns:
    `keras.Model` from a dict of int32 [batch, length] "input_word_ids", "input_mask" and "input_type_ids" to a dict of
    float32 "sequence" [batch, length, width] and, if the checkpoint has it, "pooler" [batch, width].

  Raises:
    UserError: the model is not a BERT, has an unsupported option, or its weights do not fit by name and shape.
  """
  directory = pathlib.Path(directory)
  config = read_config(directory)
  weights = {_name(key): value for key, value in read_safetensors(directory / "model.safetensors").items()}
  weights = {name: value for name, value in weights.items() if not UNUSED.match(name)}
  if is_mpnet(config):
    weights = _from_mpnet(weights, config)
  network = with_initial_weights(directory, pooler="pooler.dense.weight" in weights)
  set_weights(network, weights, directory)
  return network


def with_initial_weights(directory: str | os.PathLike, pooler: bool = True) -> keras.Model:
  """Returns the encoder of a Hugging Face directory with fresh weights; see `load`.

  Raises:
    UserError: config.json lacks an entry, or has an unsupported option.
  """
  try:
    return build(read_config(directory), pooler)
  except KeyError as error:
    raise UserError(f"{directory}/config.json has no usable {error.args[0]}") from None


def set_weights(network: keras.Model, weights: dict[str, np.ndarray], source: str | os.PathLike) -> None:
  """Sets every weight of a network of `build`; missing or extra names raise `UserError` and list them.

  Args:
    network: `keras.Model`.
    weights: {Hugging Face's name: array in the layout of PyTorch}.
    source: path of the weights, for error messages.
  """
  assign(network, _targets, weights, source, "its configuration")


def build(config: dict, pooler: bool = True) -> keras.Model:
  """Returns the encoder of a Hugging Face configuration with fresh weights; see `load`.

  Raises:
    KeyError: an entry of `config` is missing or not supported.
  """
  if is_mpnet(config):
    positions = config["max_position_embeddings"] - MPNET_POSITION
    defaults = {"layer_norm_eps": 1e-5, "relative_attention_num_buckets": 32}
    config = {**defaults, **config, "max_position_embeddings": positions, "type_vocab_size": 0}
  elif config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
    raise KeyError("position_embedding_type: only the absolute ones of an encoder are supported")
  inputs = {
    name: keras.Input((None,), dtype="int32", name=name) for name in ("input_word_ids", "input_mask", "input_type_ids")
  }
  x = _embeddings(inputs, config)
  mask = ops.expand_dims(inputs["input_mask"], axis=1)
  for i in range(config["num_hidden_layers"]):
    x = _layer(x, mask, f"layer_{i}", config)
  outputs = {"sequence": x}
  if pooler:
    outputs["pooler"] = layers.Dense(config["hidden_size"], activation="tanh", name="pooler")(x[:, 0])
  return keras.Model(inputs, outputs, name="bert")


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the tensors of a safetensors file.

  The format: uint64 length of the header, the header as JSON {name: {dtype, shape, data_offsets}}, the bytes.

  Args:
    path: of the file.

  Returns:
    dict, name -> array; floating types become float32.

  Raises:
    UserError: the file is damaged or has another format.
  """
  try:
    with open(path, "rb") as file:
      (length,) = struct.unpack("<Q", file.read(8))
      if length > 100_000_000:
        raise ValueError("the header is too long")
      header = json.loads(file.read(length))
      data = file.read()
    header.pop("__metadata__", None)
    if sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values()) > len(data):
      raise ValueError("its tensors take more bytes than it has")
    return {name: _tensor(entry, data) for name, entry in header.items()}
  except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
    raise UserError(f"{path} is not a whole safetensors file: {error}") from None


def _tensor(entry, data):
  begin, end = entry["data_offsets"]
  if not 0 <= begin <= end <= len(data):
    raise ValueError("it is truncated")
  array = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
  if entry["dtype"] == "BF16":
    return (array.astype(np.uint32) << 16).view(np.float32)
  return array.astype(np.float32) if array.dtype.kind == "f" else array


def _embeddings(inputs, config):
  ids = inputs["input_word_ids"]
  width = config["hidden_size"]
  positions = ops.cumsum(ops.ones_like(ids), axis=1) - 1
  tables = [
    layers.Embedding(config["vocab_size"], width, name="token_embedding")(ids),
    layers.Embedding(config["max_position_embeddings"], width, name="position_embedding")(positions),
  ]
  if config["type_vocab_size"]:
    segments = layers.Embedding(config["type_vocab_size"], width, name="segment_embedding")
    tables.append(segments(inputs["input_type_ids"]))
  x = layers.Add(name="embeddings_add")(tables)
  return _dropout(_norm(x, "embeddings_norm", config), "embeddings_dropout", config)


def _layer(x, mask, name, config):
  heads, width = config["num_attention_heads"], config["hidden_size"]
  activation = config.get("hidden_act", "gelu")
  if activation not in ACTIVATIONS:
    raise KeyError(f"hidden_act: {activation} is not one of {', '.join(ACTIVATIONS)}")
  dropout, buckets = config.get("attention_probs_dropout_prob", 0.1), config.get("relative_attention_num_buckets", 0)
  if buckets:
    attention = RelativeAttention(heads, width // heads, buckets, dropout, name=f"{name}_attention")(x, mask)
  else:
    attend = layers.MultiHeadAttention(heads, width // heads, dropout=dropout, name=f"{name}_attention")
    attention = attend(x, x, attention_mask=mask)
  x = layers.Add(name=f"{name}_attention_add")([x, _dropout(attention, f"{name}_attention_dropout", config)])
  x = _norm(x, f"{name}_attention_norm", config)
  inner = layers.Dense(config["intermediate_size"], name=f"{name}_intermediate")(x)
  inner = ACTIVATIONS[activation](inner)
  outer = layers.Dense(width, name=f"{name}_output")(inner)
  x = layers.Add(name=f"{name}_output_add")([x, _dropout(outer, f"{name}_output_dropout", config)])
  return _norm(x, f"{name}_output_norm", config)


class RelativeAttention(layers.Layer):
  """Self-attention whose scores have a term for the distance of two positions (Song et al. 2020, MPNet).

  MPNet has one table of these terms for all layers. Here each layer has its own copy, so that the network can be split
  between layers.
  """

  def __init__(self, heads, size, buckets, dropout, **kwargs):
    """Creates the layer: `heads` of width `size`, and `buckets` of distances."""
    super().__init__(**kwargs)
    self._table_shape, self._scale = (buckets, heads), size**-0.5
    self._bucket_of = _distances(buckets)
    self._read = [
      layers.EinsumDense("blw,whd->blhd", (None, heads, size), bias_axes="hd", name=name)
      for name in ("query", "key", "value")
    ]
    self._write = layers.EinsumDense("blhd,hdw->blw", (None, heads * size), bias_axes="w", name="attention_output")
    self._softmax, self._dropout = layers.Softmax(name="softmax"), layers.Dropout(dropout, name="dropout")

  def build(self, shape):
    for layer in self._read:
      layer.build(shape)
    self._write.build(self._read[0].compute_output_shape(shape))
    self.relative_bias = self.add_weight(self._table_shape, initializer="zeros", name="relative_bias")

  def call(self, x, attention_mask):
    """Returns [batch, length, width] for x of the same shape; the mask, int [batch, 1, length], is 0 at padding."""
    query, key, value = (layer(x) for layer in self._read)
    scores = ops.einsum("bqhd,bkhd->bhqk", query * self._scale, key)
    positions = ops.arange(ops.shape(x)[1])
    distance = ops.clip(positions[None] - positions[:, None], -FAR, FAR)
    terms = ops.take(self.relative_bias, ops.take(self._bucket_of, distance + FAR), axis=0)
    scores = scores + ops.cast(ops.transpose(terms, (2, 0, 1)), scores.dtype)
    weights = self._softmax(scores, ops.cast(attention_mask[:, None], "bool"))
    return self._write(ops.einsum("bhqk,bkhd->bqhd", self._dropout(weights), value))


def _distances(buckets):
  """Returns the bucket of each distance -`FAR` .. `FAR` of key from query, int32 [2 FAR + 1] (Raffel et al. 2020, T5).

  Half of the buckets are for keys after the query. Half of each half serve one distance each, the rest serve ranges
  of growing size.
  """
  distance = np.arange(-FAR, FAR + 1)
  half = buckets // 2
  near, steps = half // 2, np.abs(distance)
  ratio = np.log(np.maximum(steps, 1).astype(np.float32) / near) / np.float32(math.log(FAR / near))
  far = np.minimum(near + (ratio * (half - near)).astype(np.int32), half - 1)
  return (np.where(distance > 0, half, 0) + np.where(steps < near, steps, far)).astype(np.int32)


def is_mpnet(config: dict) -> bool:
  """Returns whether a configuration is that of an MPNet."""
  return config.get("model_type") == "mpnet"


def _from_mpnet(weights, config):
  """Returns MPNet's weights under BERT's names, with a copy of its table of distances for each layer."""
  for old, new in MPNET_NAMES:
    weights = {re.sub(old, new, name): value for name, value in weights.items()}
  table = weights.pop("encoder.relative_attention_bias.weight", None)
  if table is not None:
    copies = range(config.get("num_hidden_layers", 0))
    weights |= {f"encoder.layer.{i}.attention.relative_bias": table for i in copies}
  positions = "embeddings.position_embeddings.weight"
  if positions in weights:
    weights[positions] = weights[positions][MPNET_POSITION:]
  return weights


def to_mpnet(weights: dict[str, np.ndarray], config: dict) -> dict[str, np.ndarray]:
  """Returns weights with BERT's names under MPNet's: the reverse of what `load` does.

  Raises:
    UserError: the layers have different terms for distances, and the format holds one table for all.
  """
  tables = [value for name, value in weights.items() if name.endswith(RELATIVE_BIAS)]
  if any(not np.array_equal(table, tables[0]) for table in tables[1:]):
    raise UserError(
      "the layers of this MPNet have different terms for distances since they were fine-tuned, and the format of "
      "Hugging Face holds one table for all: give the run itself to --backbone"
    )
  weights = {name: value for name, value in weights.items() if not name.endswith(RELATIVE_BIAS)}
  for old, new in MPNET_NAMES:
    weights = {name.replace(new, old.replace("\\", "")): value for name, value in weights.items()}
  if tables:
    weights["encoder.relative_attention_bias.weight"] = tables[0]
  positions = "embeddings.position_embeddings.weight"
  # The rows of padding, which no text reads.
  padding = np.zeros((MPNET_POSITION, weights[positions].shape[1]), np.float32)
  return weights | {positions: np.concatenate([padding, weights[positions]])}


def _norm(x, name, config):
  return layers.LayerNormalization(epsilon=config.get("layer_norm_eps", 1e-12), name=name)(x)


def _dropout(x, name, config):
  return layers.Dropout(config.get("hidden_dropout_prob", 0.1), name=name)(x)


def _targets(layer: keras.Layer) -> dict[str, Target]:
  """Returns {Hugging Face's name: `Target`} of the weights of one layer."""

  def target(name, variable):
    # PyTorch keeps dense kernels as [out, in]; those of attention are split into heads here.
    kernel = name.endswith("weight") and "mbeddings" not in name
    return Target(variable, axes=(1, 0) if kernel else (), reshape=True)

  return {name: target(name, variable) for name, variable in torch_names(layer).items()}


def torch_names(layer: keras.Layer) -> dict[str, keras.Variable]:
  """Returns {Hugging Face's name: variable} of one layer."""
  if isinstance(layer, layers.Embedding):
    part = {"token": "word", "position": "position", "segment": "token_type"}[layer.name.partition("_")[0]]
    return {f"embeddings.{part}_embeddings.weight": layer.embeddings}
  if layer.name == "embeddings_norm":
    return {"embeddings.LayerNorm.weight": layer.gamma, "embeddings.LayerNorm.bias": layer.beta}
  if layer.name == "pooler":
    return {"pooler.dense.weight": layer.kernel, "pooler.dense.bias": layer.bias}
  index, part = re.fullmatch(r"layer_(\d+)_(\w+)", layer.name).groups()
  prefix = f"encoder.layer.{index}"
  if part == "attention":
    ends = {"kernel": "weight", "bias": "bias"}
    names = {}
    for variable in layer.weights:
      *_, role, end = variable.path.split("/")
      if end == "relative_bias":
        names[f"{prefix}.attention.relative_bias"] = variable
        continue
      module = "attention.output.dense" if role == "attention_output" else f"attention.self.{role}"
      names[f"{prefix}.{module}.{ends[end]}"] = variable
    return names
  module = {
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
  }[part]
  first, second = (layer.gamma, layer.beta) if part.endswith("norm") else (layer.kernel, layer.bias)
  return {f"{prefix}.{module}.weight": first, f"{prefix}.{module}.bias": second}


def _name(key):
  # Checkpoints with the head of a task have a prefix; old ones call LayerNorm's weights gamma and beta.
  name = key.removeprefix("bert.").removeprefix("mpnet.")
  return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{'weight' if m[1] == 'gamma' else 'bias'}", name)


def _json(path):
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read as JSON: {error}") from None
  return value if isinstance(value, dict) else {}
