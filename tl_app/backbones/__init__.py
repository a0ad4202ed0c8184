"""Names and handles to `BackboneSpec` records, and records to loaded backbones. Resolving needs no TensorFlow."""

import dataclasses
import json
import pathlib
import re

from tl_app import config
from tl_app.backbones.spec import SPECS, BackboneSpec
from tl_app.errors import UserError

MODULE_URL = re.compile(r"https://(tfhub\.dev|(www\.)?kaggle\.com/models)/\S+")
# By --pixels.
RANGES = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0), "byte": (0.0, 255.0)}
# What a sentence-transformers directory calls them.
POOLING_MODES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
FORMS = (
  "a tfhub.dev or kaggle.com/models URL, kaggle://OWNER/MODEL/FRAMEWORK/VARIATION, hf://OWNER/MODEL, "
  "a directory with saved_model.pb, a preset directory with config.json"
)


def resolve(name):
  """Returns the `BackboneSpec` of a table name, a family (its first record) or a handle. Touches no network.

  Raises:
    UserError: neither; the message gives the nearest name, all names and the forms of a handle.
  """
  for spec in SPECS:
    if name in (spec.name, spec.name.partition(".")[0]):
      return spec
  kind = _handle_kind(name)
  for spec in SPECS:
    if kind and spec.handle.removesuffix("/") == name.removesuffix("/"):
      return dataclasses.replace(spec, name=name)
  if kind == "saved_model":
    return BackboneSpec(name=name, kind=kind, handle=name)
  if kind == "kerashub":
    # Every KerasHub backbone has a sequence or a map, few a pooler; their converters take pixels of [0, 255].
    made = {"pooling": "mean", "value_range": (0.0, 255.0)} | _sentence_features(pathlib.Path(name).expanduser())
    return BackboneSpec(name=name, kind=kind, handle=name, **made)
  raise UserError(_unknown(name))


def load(spec, assets, *, preprocessor="", pooling="auto", image_size=0, pixels="auto"):
  """Loads the network of a record.

  Args:
    spec: `BackboneSpec`.
    assets: `tl_app.assets.Assets`.
    preprocessor: handle of the text preprocessing twin; "" takes the record's, else the module's own vocabulary.
    pooling: "mean", "cls", "pooler", or "auto" for the record's.
    image_size: height and width in pixels; 0 for the record's.
    pixels: key of `RANGES`, or "auto" for the record's; of SavedModels alone.

  Returns:
    A `tl_app.backbones.backbone.Backbone`.
  """
  if pixels != "auto":
    if spec.kind != "saved_model":
      raise UserError(f"--pixels={pixels} is for SavedModels; {spec.name} brings its own normalisation")
    spec = dataclasses.replace(spec, value_range=RANGES[pixels])
  if spec.kind == "saved_model":
    from tl_app.backbones import saved_model

    twin = preprocessor or spec.preprocessor
    return saved_model.load(
      assets.hub_module(spec.handle),
      spec,
      preprocessor=assets.hub_module(twin) if twin else None,
      pooling=pooling,
      image_size=image_size,
    )
  if preprocessor:
    raise UserError(f"--preprocessor={preprocessor} is for SavedModels; {spec.name} brings its own tokenizer")
  from tl_app.backbones import native

  if spec.handle.startswith("hf://"):
    # What `resolve` reads of a directory, an address tells only once it is fetched.
    spec = dataclasses.replace(spec, **_sentence_features(pathlib.Path(assets.preset(spec.handle))))
  return native.load(spec, assets, pooling=pooling, image_size=image_size)


def table():
  """Returns the records as a list of dicts of strings, one a row, for `inspect` and the README."""
  return [
    {
      "name": spec.name,
      "modality": spec.modality,
      "input": f"{spec.image_size} px" if spec.image_size else f"{spec.max_length} tokens",
      "parameters": f"{spec.parameters / 1e6:.1f} M",
      "licence": spec.licence,
      "note": spec.note,
    }
    for spec in SPECS
  ]


def _handle_kind(name):
  """Returns the loader of a handle by its form, or by what the directory holds; "" for what is no handle."""
  if MODULE_URL.fullmatch(name):
    return "saved_model"
  if re.fullmatch(r"(kaggle|hf)://[^/\s]+(/[^/\s]+)+", name):
    return "kerashub"
  directory = pathlib.Path(name).expanduser()
  if not name or not directory.is_dir():
    return ""
  if (directory / "saved_model.pb").exists():
    return "saved_model"
  return "kerashub" if (directory / "config.json").exists() else ""


def _sentence_features(directory):
  """Returns {"pooling", "unit_length"} as a sentence-transformers directory says them, {} of any other.

  Its modules.json lists what runs one after the other; of more than a network, its pooling and a normalisation the
  features are another network's.

  Raises:
    UserError: modules.json, or what it says of the pooling, is damaged.
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
    chosen = [name for name, key in POOLING_MODES.items() if modes.get(key)]
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f"{path} is damaged ({error}): fetch the model again, or remove {directory}/modules.json") from None
  return {"pooling": chosen[0], "unit_length": "Normalize" in folders} if len(chosen) == 1 else {}


def _unknown(name):
  names = [spec.name for spec in SPECS]
  forms = f"Names: {', '.join(names)}. Or give {FORMS}"
  directory = pathlib.Path(name).expanduser()
  if name and directory.is_dir():
    found = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "nothing"
    return f"--backbone={name} is a directory with neither saved_model.pb nor config.json; it holds {found}. {forms}"
  if "://" not in name and "/" in name:
    return f"--backbone={name}: there is no such directory, seen from {pathlib.Path.cwd()}; {forms}"
  families = dict.fromkeys(known.partition(".")[0] for known in names)
  return f"--backbone={name} is not known{config.suggestion(name, [*names, *families]) or '.'} {forms}"
