"""Ordered stages from variable names: pure functions of names, shapes and graph order, without TensorFlow."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from tl_app.errors import UserError

MAX_PARTS = 8
# Names with another meaning in --train_stages: the new head, and which stages train.
RESERVED = ("head", "auto", "all", "none")
# Blocks per stage of a ResNet, by the number of blocks: 18, 34 and 50, 101, 152 layers (He et al. 2016, table 1).
_RESNET_BLOCKS = {8: (2, 2, 2, 2), 16: (3, 4, 6, 3), 33: (3, 4, 23, 3), 50: (3, 8, 36, 3)}
# Names of layers that were not given a name.
_AUTOMATIC = re.compile(
  r"(variable|kernel|bias|weights?|param(eter)?s?|gamma|beta|moving_\w+|conv(1d|2d|3d)?|(depthwise|separable)_conv2d|"
  r"dense|embedding|(batch|layer|group)_normalization|model|functional|sequential|keras_layer|unnamed|\w{0,2})[_./]?\d*",
  re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Rule:
  """One line of a family.

  Attributes:
    pattern: regular expression searched in the variable's name, case-insensitively; its groups number the stage.
    stage: name of the stage, formatted with the groups; "" joins the last stage of the body.
    level: 0 before the body, 1 the body, 2 after it.
    offset: added to the number in the stage's name.
    ranked: whether the numbers are replaced by their ranks, and the blocks are grouped into the stages of a ResNet.
  """

  pattern: str
  stage: str
  level: int = 1
  offset: int = 0
  ranked: bool = False


# Within a family the first rule that matches a name decides. The family whose body matches most names is used; in a tie
# the earlier one.
FAMILIES = {
  "transformer": (
    Rule(r"(^|/)(cls/predictions|predictions|lm_head|mlm\w*|masked_lm\w*|nsp\w*)/", "mlm", 2),
    Rule(r"(?:^|/)(?:\w+_)?layer_(\d+)(?:/|$)", "layer_{}"),
    # Hugging Face's names, in TensorFlow and in PyTorch.
    Rule(r"(?:^|[/.])layer(?:_\._|\.)(\d+)(?:[/.]|$)", "layer_{}"),
    Rule(r"(?:^|/)encoderblock_(\d+)(?:/|$)", "layer_{}"),
    Rule(r"(?:^|/)(?:inner_)?group_(\d+)/", "layer_{}"),
    Rule(r"(^|[/.])(pooler\w*|pre_logits)([/.]|$)", "pooler", 2),
    Rule(r"(^|/)(encoder_norm|final_layer_norm\w*|output_layer_norm)(/|$)", ""),
    Rule(r"(?:^|[/.])(?:\w*embeddings?\w*|embeddings|posembed\w*|class_token|cls|patch\w*)(?:[/.]|$)", "embeddings", 0),
    Rule(r"(?:^|/)transformer/", "layers"),
  ),
  "slim_resnet": (
    Rule(r"(?:^|/)block(\d+)/unit_?\d+", "stage{}"),
    Rule(r"(^|/)(conv1|root_block)(/|$)", "stem", 0),
    Rule(r"(^|/)(postnorm|group_norm)(/|$)", ""),
  ),
  "keras_resnet": (
    Rule(r"(?:^|/)conv([2-9])_block\d+", "stage{}", offset=-1),
    Rule(r"(?:^|/)(?:res|bn)([2-9])[a-z]+\d*_branch", "stage{}", offset=-1),
    Rule(r"(^|/)(conv1|bn_conv1|conv1_\w+)(/|$)", "stem", 0),
    Rule(r"(^|/)post_\w+(/|$)", ""),
  ),
  "model_garden_resnet": (
    Rule(r"(?:^|/)(?:bottleneck|residual)_block(?:_(\d+))?(?:/|$)", "block_{}", ranked=True),
    Rule(r"(^|/)((conv2d|(sync_)?batch_normalization)(_\d+)?)(/|$)", "stem", 0),
  ),
  "efficientnet": (
    Rule(r"(?:^|/)blocks_(\d+)(?:/|$)", "block_{}"),
    Rule(r"(?:^|/)block(\d+)([a-z])_", "block_{}{}"),
    Rule(r"(^|/)(stem|stem_\w+|normalization)(/|$)", "stem", 0),
    Rule(r"(^|/)(head|top|top_\w+)(/|$)", "top", 2),
  ),
  "mobilenet": (
    Rule(r"(?:^|/)expanded_conv(?:_(\d+))?(?:/|_|$)", "block_{}"),
    Rule(r"(?:^|/)block_(\d+)_", "block_{}"),
    Rule(r"(?:^|/)Conv2d_([1-9]\d*)_(?:depthwise|pointwise)", "block_{}"),
    Rule(r"(?:^|/)conv_(?:dw|pw)_(\d+)", "block_{}"),
    Rule(r"(^|/)Conv_[12](_bn)?(/|$)", "top", 2),
    Rule(r"(^|/)(bn_)?(Conv|Conv1|Conv2d_0)(_bn)?(/|$)", "stem", 0),
  ),
  "inception": (
    Rule(r"(?:^|/)Mixed_(\d+)([a-z])(?:/|$)", "mixed_{}{}"),
    Rule(r"(^|/)Conv2d_\w+(/|$)", "stem", 0),
  ),
  "numbered": (
    Rule(r"(?:^|/)(?:\w+_)?(?:stage|block|layer|unit|stack|group|cell)s?[_/]?(\d+)", "stage_{}"),
    Rule(r"(^|/)(stem|input|embed)\w*(/|$)", "stem", 0),
    Rule(r"(^|/)(top|head|post|pooler|output)\w*(/|$)", "top", 2),
  ),
}


def partition(shapes: Mapping[str, tuple], order: Mapping[str, float] | None = None) -> dict[str, list[str]]:
  """Divides variables into stages by their names.

  Args:
    shapes: dict, unique variable name -> shape, in the module's order.
    order: dict, variable name -> time of first use in the forward pass; a name may be missing. None if unknown.

  Returns:
    Ordered dict, stage name -> list of names, from the input upwards; every name is in exactly one stage. Empty if the
    names do not show stages.
  """
  names = list(shapes)
  matched = max((_match(names, rules) for rules in FAMILIES.values()), key=_body_size)
  if _body_size(matched):
    return _total(shapes, matched)
  return _by_prefix(names, order or {})


def by_patterns(names: Sequence[str], patterns: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
  """Divides variables into the stages of a record.

  Args:
    names: variable names.
    patterns: ordered ((stage, regular expression), ..); the first expression found in a name decides.

  Raises:
    UserError: no pattern matches a variable.
  """
  stages = {stage: [] for stage, _ in patterns}
  for name in names:
    stage = next((stage for stage, pattern in patterns if re.search(pattern, name)), None)
    if stage is None:
      raise UserError(f"no stage of the backbone's record matches its variable {name}: correct the record's stages")
    stages[stage].append(name)
  return {stage: members for stage, members in stages.items() if members}


def by_order(shapes: Mapping[str, tuple], order: Mapping[str, float]) -> dict[str, list[str]]:
  """Divides variables into at most `MAX_PARTS` stages `part_1`.. by first use; a kernel stays with its bias and norm.

  Args:
    shapes: dict, variable name -> shape.
    order: dict, variable name -> time of first use; names without one come last.
  """
  ranked = sorted(shapes, key=lambda name: order.get(name, float("inf")))
  layers = []
  for name in ranked:
    if not layers or (len(shapes[name]) > 1 and any(len(shapes[member]) > 1 for member in layers[-1])):
      layers.append([])
    layers[-1].append(name)
  if not layers:
    return {}
  count = min(MAX_PARTS, len(layers))
  cuts = [round(i * len(layers) / count) for i in range(count + 1)]
  return {f"part_{i + 1}": sum(layers[cuts[i] : cuts[i + 1]], []) for i in range(count)}


def _match(names, rules):
  """Returns {name: (level, numbers, stage)} of the names that a rule matches; `_total` assigns the rest."""
  found = {}
  for name in names:
    for rule in rules:
      match = re.search(rule.pattern, name, re.IGNORECASE)
      if match:
        found[name] = (rule, tuple(_number(group) for group in match.groups())) if rule.level == 1 else (rule, ())
        break
  ranks = sorted({numbers for rule, numbers in found.values() if rule.ranked})
  return {name: _stage_key(rule, numbers, ranks) for name, (rule, numbers) in found.items()}


def _stage_key(rule, numbers, ranks):
  if rule.ranked:
    index = ranks.index(numbers)
    blocks = _RESNET_BLOCKS.get(len(ranks))
    if blocks:
      stage = next(i for i in range(len(blocks)) if index < sum(blocks[: i + 1])) + 1
      return 1, (stage,), f"stage{stage}"
    numbers = (index,)
  shown = [number + rule.offset if isinstance(number, int) else number for number in numbers]
  return rule.level, tuple(numbers), rule.stage.format(*shown)


def _number(group):
  if group is None:
    return 0
  return int(group) if group.isdigit() else group.lower()


def _body_size(matched):
  return sum(level == 1 and stage != "" for level, _, stage in matched.values())


def _total(shapes, matched):
  """Returns the ordered stages of all names: those not matched join their layer, else the stage at their position."""
  keys = {key for key in matched.values() if key[2]}
  body = [stage for _, _, stage in sorted(key for key in keys if key[0] == 1)]
  bottom = next((stage for level, _, stage in sorted(keys) if level == 0), "stem")
  top = next((stage for level, _, stage in sorted(keys) if level == 2), "top")
  in_body = [index for index, name in enumerate(shapes) if name in matched and matched[name][0] == 1]
  layers = {_layer(name): stage or body[-1] for name, (_, _, stage) in matched.items()}
  members, current = {}, body[0]
  for index, (name, shape) in enumerate(shapes.items()):
    if name in matched:
      current = matched[name][2] or body[-1]
    elif _layer(name) in layers:
      current = layers[_layer(name)]
    elif shape and index < in_body[0]:
      current = bottom
    elif shape and index > in_body[-1]:
      current = top
    layers[_layer(name)] = current
    members.setdefault(current, []).append(name)
  levels = {stage: (level, numbers) for level, numbers, stage in keys}
  levels = {bottom: (0, ()), top: (2, ()), **levels}
  return {stage: members[stage] for stage in sorted(members, key=lambda stage: (levels[stage], stage))}


def _by_prefix(names, order):
  """Returns a stage for each scope at the first level where the names differ, by first use.

  Empty if most of these scopes are automatic names.
  """
  paths = [name.split("/") for name in names]
  depth = 0
  while paths and all(len(path) > depth + 2 for path in paths) and len({path[depth] for path in paths}) == 1:
    depth += 1
  stages = {}
  for name, path in sorted(zip(names, paths), key=lambda pair: order.get(pair[0], float("inf"))):
    stages.setdefault(path[depth], []).append(name)
  meaningless = sum(len(stages[stage]) for stage in stages if _AUTOMATIC.fullmatch(stage))
  if not 2 <= len(stages) <= 40 or 2 * meaningless > len(names):
    return {}
  return {f"own_{stage}" if stage in RESERVED else stage: members for stage, members in stages.items()}


def _layer(name):
  return name.rpartition("/")[0] or name
