"""Describes the backbones: the whole table, without TensorFlow, or one loaded backbone."""

import dataclasses

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.backbones.backbone import Backbone, parameters
from tl_app.config import Config, rules
from tl_app.errors.counts import number_of

# Columns of the table that `listing` returns.
COLUMNS = ("name", "modality", "input", "parameters", "licence", "handle")


def listing() -> str:
  """Returns the table of backbones as text. TensorFlow and a network connection are not needed."""
  rows = [COLUMNS, *([row[column] for column in COLUMNS] for row in backbones.table())]
  widths = [max(map(len, cells)) for cells in zip(*rows)]
  return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def load(config: Config) -> Backbone:
  """Loads a backbone.

  Args:
    config: provides the flags of the backbone and of downloads, and the image size.
  """
  spec = _with_any_vocabulary(backbones.resolve(config.backbone), config.vocabulary_size)
  backbone = backbones.load_configured(spec, Assets.of(config), config)
  rules.require(rules.sizes_fit_the_backbone(config, "", (), backbone))
  return backbone


def stages(backbone: Backbone) -> list[dict]:
  """Returns {"stage", "variables", "parameters"} of each stage, from the input upwards."""
  return [
    {"stage": name, "variables": len(variables), "parameters": parameters(variables)}
    for name, variables in backbone.stages.items()
  ]


def describe(config: Config) -> str:
  """Loads a backbone and returns its description as text: inputs, outputs, features, licence and stages.

  Args:
    config: as of `load`.
  """
  import keras

  backbone = load(config)
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
  rows = stages(backbone)
  width = max((len(row["stage"]) for row in rows), default=0)
  lines.append(f"  {number_of(len(rows), 'stage')}{', from the input upwards:' if rows else ''}")
  lines += [
    f"    {row['stage'].ljust(width)}  {row['variables']:4} variables  {row['parameters']:12,} parameters"
    for row in rows
  ]
  return "\n".join(lines)


def _with_any_vocabulary(spec, size):
  """Returns the record; if its vocabulary is learnt from training texts, with `size` tokens that occur in no text."""
  if not spec.learns_vocabulary or spec.vocabulary:
    return spec
  reserved = backbones.with_vocabulary(spec, (), 0).vocabulary
  tokens = (*reserved, *(f"[unused{i}]" for i in range(size - len(reserved))))
  return dataclasses.replace(
    spec, vocabulary=tokens, note=f"{spec.note}; the sizes are those for {size:,} tokens, the largest number"
  )


def _size(backbone):
  if backbone.preprocess.size:
    return f"image size  {backbone.preprocess.size} x {backbone.preprocess.size} pixels"
  limit = backbone.preprocess.limit
  return f"max length  {f'{limit} tokens' if limit else 'any'}"
