"""Describes the backbones: the whole table, without TensorFlow, or one loaded backbone."""

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.backbones.backbone import parameters

# Columns of the table that `listing` returns.
COLUMNS = ("name", "modality", "input", "parameters", "licence", "handle")


def listing() -> str:
  """Returns the table of backbones as text. TensorFlow and a network connection are not needed."""
  rows = [COLUMNS, *([row[column] for column in COLUMNS] for row in backbones.table())]
  widths = [max(map(len, cells)) for cells in zip(*rows)]
  return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def describe(
  name: str, assets: Assets, preprocessor: str = "", pooling: str = "auto", image_size: int = 0, pixels: str = "auto"
) -> str:
  """Loads a backbone and returns its description as text: inputs, outputs, features, licence and stages.

  Args:
    name: as in --backbone.
    assets: the `Assets`.
    preprocessor: as in `Config`.
    pooling: as in `Config`.
    image_size: as in `Config`, in pixels.
    pixels: as in `Config`.
  """
  import keras

  backbone = backbones.load(
    backbones.resolve(name), assets, preprocessor=preprocessor, pooling=pooling, image_size=image_size, pixels=pixels
  )
  spec = backbone.spec
  inputs = keras.tree.flatten(backbone.network.input)
  lines = [
    f"{spec.name}: {spec.kind} backbone for {spec.modality}s",
    f"  handle      {spec.handle}",
    f"  licence     {spec.licence}",
    f"  inputs      {', '.join(f'{x.name} {x.dtype} {list(x.shape)}' for x in inputs)}",
    f"  outputs     {', '.join(f'{key} {list(x.shape)}' for key, x in backbone.network.output.items())}",
    f"  {_size(backbone)}",
    f"  features    {backbone.feature_size}, pooling {spec.pooling}{', of L2 norm 1' if spec.l2_normalized else ''}",
    f"  parameters  {parameters(sum(backbone.stages.values(), [])):,}",
  ]
  lines += [f"  note        {note}" for note in [spec.note, *backbone.notes] if note]
  width = max((len(stage) for stage in backbone.stages), default=0)
  lines.append(f"  {len(backbone.stages)} stages{', from the input upwards:' if backbone.stages else ''}")
  for stage, variables in backbone.stages.items():
    lines.append(f"    {stage.ljust(width)}  {len(variables):4} variables  {parameters(variables):12,} parameters")
  return "\n".join(lines)


def _size(backbone):
  if backbone.preprocess.size:
    return f"image size  {backbone.preprocess.size} x {backbone.preprocess.size} pixels"
  limit = backbone.preprocess.limit
  return f"max length  {f'{limit} tokens' if limit else 'any'}"
