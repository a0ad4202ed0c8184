"""The directory of a backbone that tl_app wrote: the network in its own format, its record, and model_card.md."""

import dataclasses
import datetime
import json
import pathlib
import typing
from collections.abc import Mapping

from tl_app import files, workdir
from tl_app.backbones.spec import BackboneSpec
from tl_app.errors import UserError
from tl_app.files import checksums

if typing.TYPE_CHECKING:
  from tl_app.backbones.backbone import Backbone

# File with the fields of the record that the format of the network does not hold.
FACTS = "tl_app_backbone.json"
CARD = "model_card.md"
# Folder of the TF Hub preprocessing model of a SavedModel.
PREPROCESSOR = "preprocessor"
# Keras model of a backbone that has no format of its own.
KERAS_FILE = "model.keras"
# Of a network of `scratch`: which one it is, its vocabulary and its weights.
NETWORK, VOCABULARY, WEIGHTS = "network.json", "vocab.txt", "model.weights.h5"
NETWORK_FIELDS = {"handle": str, "width": int, "depth": int, "max_length": int, "learning_rate": float}
FIELDS = ("modality", "pooling", "l2_normalized", "image_size", "value_range", "mean", "channels", "stages", "licence")


@dataclasses.dataclass(frozen=True)
class Card:
  """What the model card says.

  Attributes:
    made_from: the backbone that the network started from, as of --backbone.
    how: what was done.
    data: the data, and how many examples.
    metrics: {name: (before, after)}.
    licence: of the pretrained weights.
  """

  made_from: str
  how: str
  data: str
  metrics: Mapping[str, tuple]
  licence: str


def write(backbone: "Backbone", directory: pathlib.Path, card: Card) -> None:
  """Writes a backbone with its present weights into a directory, which appears when it is whole.

  Args:
    backbone: with `save`.
    directory: is replaced.
    card: the `Card`.
  """
  assert backbone.save is not None
  with files.atomic_path(directory) as new:
    new.mkdir()
    backbone.save(new)
    spec = dataclasses.asdict(backbone.spec)
    if (new / KERAS_FILE).is_file():
      # Its graph scales the pixels.
      spec |= {"value_range": (0.0, 1.0), "mean": (), "channels": "RGB"}
    facts = {name: spec[name] for name in FIELDS} | {"downloads": list(map(dataclasses.asdict, backbone.downloads))}
    (new / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    # The card is for its readers, who may add to it.
    checksums.write(new, sorted(path for path in new.rglob("*") if path.is_file()))
    (new / CARD).write_text(_text(card, backbone), encoding="utf-8")


def is_saved(directory: pathlib.Path) -> bool:
  """Returns whether `write` has made a directory."""
  return (directory / FACTS).is_file()


def described(spec: BackboneSpec, directory: pathlib.Path) -> BackboneSpec:
  """Returns the record of a directory with what `write` has kept of it.

  Raises:
    UserError: the file is damaged.
  """
  try:
    kept = json.loads(_verified(directory / FACTS).read_text(encoding="utf-8"))
    kept = {name: _tuples(kept[name]) for name in FIELDS}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"--backbone={directory}: {FACTS} is damaged ({error}): pretrain again") from None
  if (directory / KERAS_FILE).is_file():
    spec = dataclasses.replace(spec, kind="keras_file", handle=str(directory / KERAS_FILE))
  if (directory / NETWORK).is_file():
    spec = _of_scratch(spec, directory)
  own = directory / PREPROCESSOR
  return dataclasses.replace(
    spec, **kept, preprocessor=str(own) if own.is_dir() else "", directory=str(directory.resolve())
  )


def verify(directory: pathlib.Path) -> None:
  """Raises `UserError` if a file of a directory is not what `write` wrote."""
  checksums.verify_all(directory, checksums.BACKBONE_AGAIN)


def _verified(path):
  return checksums.verified(path, checksums.BACKBONE_AGAIN)


def _of_scratch(spec, directory):
  """Returns the record of a network that `scratch.save` wrote."""
  try:
    about = {name: kind(files.read_json(_verified(directory / NETWORK))[name]) for name, kind in NETWORK_FIELDS.items()}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"--backbone={directory}: {NETWORK} is damaged ({error}): pretrain again") from None
  tokens = workdir.read_vocabulary(directory / VOCABULARY)
  return dataclasses.replace(spec, kind="scratch", **about, vocabulary=tokens, weights=str(directory / WEIGHTS))


def _tuples(value):
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _text(card, backbone):
  rows = "\n".join(
    f"| {name} | {_number(before)} | {_number(after)} |" for name, (before, after) in card.metrics.items()
  )
  downloads = "".join(
    f"- Downloaded: {download.describe()}; the sha256 of each is in {FACTS}\n" for download in backbone.downloads
  )
  length = ", of length 1" if backbone.spec.l2_normalized else ""
  table = f"\n| | before | after |\n| --- | --- | --- |\n{rows}\n" if rows else ""
  return f"""# A backbone for {backbone.modality}s

- Made from: `{card.made_from}` (licence of its weights: {card.licence})
{downloads}- How: {card.how}
- Data: {card.data}
- Date: {datetime.date.today().isoformat()}
- Features: {backbone.feature_size} numbers, pooling `{backbone.spec.pooling}`{length}
{_effects(backbone)}{table}
Fine-tune it with tl_app:

```bash
python -m tl_app.train --backbone=DIRECTORY --dataset=table:DATA.csv --workdir=RUN
```
"""


def _effects(backbone):
  if not backbone.effects:
    return ""
  return f"- **Not safe to load unseen**: its graph has {backbone.effects}. `--trust_backbone` has let it through\n"


def _number(value):
  return "" if value is None else f"{value:.4f}"
