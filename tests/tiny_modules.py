"""Writers of tiny SavedModels, one for each form that a backbone comes in. Each returns its directory as a string."""

import pathlib

import numpy as np
import tensorflow as tf

TOKENS = (
  "[PAD]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "[MASK]",
  "the",
  "film",
  "is",
  "good",
  "bad",
  "##ly",
  ",",
  ".",
  "!",
  "cafe",
)
VOCABULARY = (*TOKENS, *(f"word{i}" for i in range(20)))
INPUTS = ("input_word_ids", "input_mask", "input_type_ids")
WIDTH = 8
LAYER_NAMES = ("net/stem", "net/blocks_0", "net/blocks_1", "net/head")
NAMELESS = ("", "", "", "")


def image(directory, size=None, names=LAYER_NAMES, dtype=tf.float32, batch=None, moving_trainable=False):
  """Four convolutions with BatchNorm, `training`, `batch_norm_momentum` and regularization losses; 8 features.

  `size` fixes height and width, `batch` the batch; with `NAMELESS` every variable is called `Variable`, with
  `moving_trainable` the moving statistics are listed among what trains.
  """
  module = _Image(names)
  if moving_trainable:
    module.trainable_variables = module.variables
  spec = tf.TensorSpec([batch, size, size, 3], dtype, name="inputs")
  for training in (True, False):
    module.__call__.get_concrete_function(spec, training, tf.TensorSpec([], tf.float32, name="batch_norm_momentum"))
  return _save(module, directory)


def image_constant(directory):
  """An image module without any variable, as a frozen graph is: images of 16 pixels to {"features": [batch, 8]}."""
  module, kernel = tf.Module(), tf.constant(_variable("kernel", [3, WIDTH]).numpy())
  module.answer = tf.function(
    lambda images: {"features": tf.reduce_mean(images, [1, 2]) @ kernel},
    input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.float32, name="images")],
  )
  return _save(module, directory, {"serving_default": module.answer})


def image_map(directory):
  """One convolution, no `training`: float32 [batch, height, width, 3] to a map [batch, h, w, 8]."""
  return _save(_Map(), directory)


def image_signature(directory):
  """No `__call__`: a signature `default` alone, from images of 16 pixels to {"default": [batch, 8]}."""
  module = _Map()

  @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.float32, name="images")])
  def default(images):
    return {"default": tf.reduce_mean(module(images), [1, 2])}

  holder = tf.Module()
  holder.kernel = module.kernel
  return _save(holder, directory, {"default": default})


def bert(directory, layers=2, old=False, length=None, lower=True):
  """BERT's interface of TF Hub, with `vocab_file` and `do_lower_case`; `old` is that of versions 1 and 2."""
  module = _Bert(_vocabulary(directory), layers, old, lower)
  ids = [tf.TensorSpec([None, length], tf.int32, name=name) for name in INPUTS]
  for training in (True, False):
    module.__call__.get_concrete_function(ids if old else dict(zip(INPUTS, ids)), training)
  return _save(module, directory)


def bert_signature(directory, names):
  """No `__call__`: a signature that takes tokens and their mask, and others, under `names` of Hugging Face.

  It returns the hidden states of two layers, that of the last one again, a pooled output and scores of attention.
  """
  module = tf.Module()
  module.vocab_file, module.do_lower_case = tf.saved_model.Asset(_vocabulary(directory)), True
  module.table, module.kernel = _variable("embeddings/table", [len(VOCABULARY), WIDTH]), _variable("k", [WIDTH, WIDTH])

  def call(**inputs):
    first = tf.gather(module.table, inputs[names[0]]) * tf.cast(inputs[names[1]], tf.float32)[..., None]
    last = tf.einsum("blw,wv->blv", first, module.kernel)
    scores = tf.einsum("blw,bmw->blm", last, last)[:, None]
    outputs = {"hidden_state_0": first, "last_hidden_state": last, "pooler_output": last[:, 0]}
    return outputs | {"attentions": tf.tile(scores, [1, 2, 1, 1])}

  specs = {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in names}
  return _save(module, directory, {"serving_default": tf.function(call).get_concrete_function(**specs)})


def bert_preprocess(directory, packs=True):
  """The preprocessing model of `bert`: 12 tokens; with `tokenize` and `bert_pack_inputs` if it `packs`."""
  return _save((_PackingPreprocess if packs else _FixedPreprocess)(_vocabulary(directory)), directory)


def strings(directory):
  """NNLM's interface: string [batch] to float32 [batch, 8], the mean of hashed word vectors."""
  return _save(_Strings(), directory)


def custom(directory, forward, *specs, dtype=tf.float32, signature=None):
  """A module of kernels `stem` [3, 8] and `top` [8, 8] whose `__call__` is `forward(module, *inputs)`.

  With `signature`, likewise, there is a serving_default as well; it takes the first of the inputs.
  """
  module = tf.train.Checkpoint(
    stem=_variable("stem/kernel", [3, WIDTH]), top=_variable("top/kernel", [WIDTH, WIDTH], 1)
  )
  if dtype != tf.float32:
    module.stem = tf.Variable(tf.cast(module.stem, dtype), name="stem/kernel")
  module.__call__ = tf.function(lambda *inputs: forward(module, *inputs), input_signature=specs)
  signatures = None
  if signature:
    module.serve_one = tf.function(lambda inputs: signature(module, inputs), input_signature=specs[:1])
    signatures = {"serving_default": module.serve_one}
  return _save(module, directory, signatures)


def _save(module, directory, signatures=None):
  tf.saved_model.save(module, str(directory), signatures=signatures)
  return str(directory)


def _vocabulary(directory):
  path = pathlib.Path(str(directory) + "_vocab.txt")
  path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
  return str(path)


def _variable(name, shape, seed=0, trainable=True):
  values = np.random.default_rng([seed, *name.encode()]).normal(size=shape, scale=0.3).astype("float32")
  return tf.Variable(values, name=name or "Variable", trainable=trainable)


class _Image(tf.train.Checkpoint):
  """Its layers are listed in another order than they are used in."""

  def __init__(self, names):
    super().__init__()
    self.layers = [self._layer(i, name) for i, name in enumerate(names)]
    listed = self.layers[::-1] if not any(names) else self.layers
    self.trainable_variables = [layer[key] for layer in listed for key in ("kernel", "gamma", "beta")]
    self.variables = self.trainable_variables + [layer[key] for layer in listed for key in ("mean", "variance")]
    self.regularization_losses = [tf.function(self._loss(layer["kernel"]), input_signature=[]) for layer in self.layers]

  @tf.function
  def __call__(self, inputs, training=False, batch_norm_momentum=0.9):
    x = tf.cast(inputs, tf.float32) / 255.0 if inputs.dtype == tf.uint8 else inputs
    for i, layer in enumerate(self.layers):
      x = tf.nn.conv2d(x, layer["kernel"], 2 if i < 2 else 1, "SAME")
      mean, variance = layer["mean"] + 0.0, layer["variance"] + 0.0
      if training:
        mean, variance = tf.nn.moments(x, [0, 1, 2])
        layer["mean"].assign(layer["mean"] * batch_norm_momentum + mean * (1.0 - batch_norm_momentum))
        layer["variance"].assign(layer["variance"] * batch_norm_momentum + variance * (1.0 - batch_norm_momentum))
      x = tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, layer["beta"], layer["gamma"], 1e-3))
    return tf.reduce_mean(x, [1, 2])

  def _layer(self, index, name):
    def variable(leaf, value, trainable=True):
      return tf.Variable(value, name=f"{name}/{leaf}" if name else "Variable", trainable=trainable)

    kernel = _variable("", [3, 3, 3 if index == 0 else WIDTH, WIDTH], index)
    return {
      "kernel": variable("conv/kernel", kernel.numpy()),
      "gamma": variable("bn/gamma", tf.ones(WIDTH)),
      "beta": variable("bn/beta", tf.zeros(WIDTH) + 0.1),
      "mean": variable("bn/moving_mean", tf.zeros(WIDTH), False),
      "variance": variable("bn/moving_variance", tf.ones(WIDTH), False),
    }

  def _loss(self, kernel):
    return lambda: 0.01 * tf.reduce_sum(kernel**2)


class _Map(tf.Module):
  def __init__(self):
    super().__init__()
    self.kernel = _variable("stem/kernel", [3, 3, 3, WIDTH])

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="inputs")])
  def __call__(self, inputs):
    return tf.nn.relu(tf.nn.conv2d(inputs, self.kernel, 2, "SAME"))


class _Bert(tf.train.Checkpoint):
  def __init__(self, vocabulary, layers, old, lower):
    super().__init__()
    self.old = old
    self.vocab_file = tf.saved_model.Asset(vocabulary)
    self.do_lower_case = tf.Variable(lower, trainable=False, name="do_lower_case")
    self.words = _variable("word_embeddings/embeddings", [len(VOCABULARY), WIDTH])
    self.positions = _variable("position_embedding/embeddings", [24, WIDTH])
    self.types = _variable("type_embeddings/embeddings", [2, WIDTH])
    self.layers = [
      {
        key: _variable(f"transformer/layer_{i}/{key}/kernel", [WIDTH, WIDTH])
        for key in ("query", "key", "value", "output")
      }
      for i in range(layers)
    ]
    self.pooler = _variable("pooler_transform/kernel", [WIDTH, WIDTH])
    embeddings = [self.words, self.positions, self.types]
    self.trainable_variables = [*embeddings, *(v for layer in self.layers for v in layer.values()), self.pooler]
    self.variables = [*self.trainable_variables, self.do_lower_case]
    self.regularization_losses = []

  @tf.function
  def __call__(self, inputs, training=False):
    ids, mask, types = inputs if self.old else [inputs[name] for name in INPUTS]
    x = tf.gather(self.words, ids) + tf.gather(self.types, types) + self.positions[: tf.shape(ids)[1]]
    bias = -1e4 * (1.0 - tf.cast(mask, tf.float32))[:, None, :]
    outputs = []
    for layer in self.layers:
      query, key, value = (tf.einsum("blw,wv->blv", x, layer[name]) for name in ("query", "key", "value"))
      attention = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) + bias)
      x = x + tf.einsum("blw,wv->blv", tf.matmul(attention, value), layer["output"])
      x = tf.nn.dropout(x, 0.5) if training else x
      outputs.append(x)
    pooled = tf.tanh(x[:, 0] @ self.pooler)
    if self.old:
      return [pooled, x]
    return {"default": pooled, "pooled_output": pooled, "sequence_output": x, "encoder_outputs": outputs}


class _FixedPreprocess(tf.Module):
  def __init__(self, vocabulary):
    super().__init__()
    self.vocabulary = tf.saved_model.Asset(vocabulary)
    initializer = tf.lookup.TextFileInitializer(
      self.vocabulary.asset_path,
      tf.string,
      tf.lookup.TextFileIndex.WHOLE_LINE,
      tf.int64,
      tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    self.table = tf.lookup.StaticHashTable(initializer, VOCABULARY.index("[UNK]"))

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="sentences")])
  def __call__(self, sentences):
    return self._pack(self._tokens(sentences), tf.constant(12))

  def _tokens(self, sentences):
    words = tf.strings.split(tf.strings.lower(sentences))
    return words.with_flat_values(tf.cast(self.table.lookup(words.flat_values), tf.int32))

  def _pack(self, tokens, length):
    tokens = tokens[:, : length - 2]
    column = tf.ones([tokens.nrows(), 1], tf.int32)
    tokens = tf.concat([column * VOCABULARY.index("[CLS]"), tokens, column * VOCABULARY.index("[SEP]")], axis=1)
    ids = tokens.to_tensor(shape=tf.stack([tokens.nrows(), tf.cast(length, tf.int64)]))
    mask = tf.sequence_mask(tokens.row_lengths(), length, tf.int32)
    return {"input_word_ids": ids, "input_mask": mask, "input_type_ids": tf.zeros_like(ids)}


class _Tokenize(tf.Module):
  def __init__(self, hub):
    super().__init__()
    self.hub = hub

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="sentences")])
  def __call__(self, sentences):
    return self.hub._tokens(sentences)


class _Pack(tf.Module):
  def __init__(self, hub):
    super().__init__()
    self.hub = hub

  @tf.function(
    input_signature=[[tf.RaggedTensorSpec([None, None], tf.int32, 1)], tf.TensorSpec([], tf.int32, name="seq_length")]
  )
  def __call__(self, inputs, seq_length):
    return self.hub._pack(inputs[0], seq_length)


class _PackingPreprocess(_FixedPreprocess):
  def __init__(self, vocabulary):
    super().__init__(vocabulary)
    self.tokenize, self.bert_pack_inputs = _Tokenize(self), _Pack(self)


class _Strings(tf.Module):
  def __init__(self):
    super().__init__()
    self.embeddings = _variable("embeddings", [64, WIDTH])

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
  def __call__(self, texts):
    words = tf.strings.split(texts)
    rows = tf.strings.to_hash_bucket_fast(words.flat_values, 64)
    vectors = tf.gather(self.embeddings, rows)
    sums = tf.math.unsorted_segment_sum(vectors, words.value_rowids(), words.nrows())
    return sums / (tf.cast(words.row_lengths(), tf.float32)[:, None] + 1.0)


def texts(root):
  """Writes the text modules below the path `root`; returns {form: path}."""
  return {
    "strings": strings(root / "strings"),
    "bert": bert(root / "bert"),
    "hub_preprocess": bert_preprocess(root / "hub_preprocess"),
    "fixed preprocessing": bert_preprocess(root / "fixed", packs=False),
  }


def pair_features(u, v):
  """Returns what `text_pairs.read_pairs(.., "bi_encoder")` makes of both texts' features, float [n, width] each."""
  u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (u, v))
  return np.concatenate([u, v, abs(u - v), u.shape[1] ** 0.5 * u * v], axis=1)
