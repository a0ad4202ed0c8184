"""Names and handles to `BackboneSpec` records, and records to loaded backbones. `resolve` needs no TensorFlow."""

import dataclasses
import pathlib
import re
import typing

from tl_app import config
from tl_app.backbones.spec import BackboneSpec
from tl_app.backbones.table import SPECS
from tl_app.errors import UserError

if typing.TYPE_CHECKING:
  from tl_app.assets import Assets
  from tl_app.backbones.backbone import Backbone

MODULE_URL = re.compile(r"https://(tfhub\.dev|(www\.)?kaggle\.com/models)/\S+")
# {value of --pixels: (low, high)}.
RANGES = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0), "byte": (0.0, 255.0)}
FORMS = (
  "a tfhub.dev or kaggle.com/models URL, kaggle://OWNER/MODEL/FRAMEWORK/VARIATION, hf://OWNER/MODEL, "
  "a directory with saved_model.pb, a preset directory with config.json"
)


def resolve(name: str) -> BackboneSpec:
  """Returns the record of a table name, a family (its first record) or a handle. It does not use the network.

  Raises:
    UserError: the name is none of these; the message gives the nearest name, all names and the forms of a handle.
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
    # Every KerasHub backbone has a sequence or a map, few have a pooler; their converters expect pixels in [0, 255].
    return BackboneSpec(name=name, kind=kind, handle=name, pooling="mean", value_range=(0.0, 255.0))
  raise UserError(_unknown(name))


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
    The `Backbone`.

  Raises:
    UserError: the network cannot be loaded with these choices.
  """
  if pixels != "auto":
    if spec.kind != "saved_model":
      raise UserError(f"--pixels={pixels} is for SavedModels; {spec.name} has its own normalisation")
    spec = dataclasses.replace(spec, value_range=RANGES[pixels])
  if spec.kind == "saved_model":
    from tl_app.backbones import saved_model

    preprocessor = preprocessor or spec.preprocessor
    return saved_model.load(
      assets.hub_module(spec.handle),
      spec,
      preprocessor=assets.hub_module(preprocessor) if preprocessor else None,
      pooling=pooling,
      image_size=image_size,
    )
  if preprocessor:
    raise UserError(f"--preprocessor={preprocessor} is for SavedModels; {spec.name} has its own tokenizer")
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
  directory = pathlib.Path(name).expanduser()
  if not name or not directory.is_dir():
    return ""
  if (directory / "saved_model.pb").exists():
    return "saved_model"
  return "kerashub" if (directory / "config.json").exists() else ""


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
