"""Names of real modules' variables, cut into stages."""

import random

import pytest

from tl_app.backbones import stages_by_name
from tl_app.errors import UserError


def stages(names, order=None):
  return stages_by_name.partition({name: (3, 3) for name in names}, order)


def test_slim_resnet():
  names = ["r/conv1/weights", "r/postnorm/gamma", "r/postnorm/moving_mean"]
  names += [f"r/block{b}/unit_{u}/bottleneck_v2/conv1/weights" for b in (4, 2, 1, 3) for u in (1, 2)]
  got = stages(names)
  assert list(got) == ["stem", "stage1", "stage2", "stage3", "stage4"]
  assert {"r/postnorm/gamma", "r/postnorm/moving_mean"} < set(got["stage4"]) and len(got["stage4"]) == 4


@pytest.mark.parametrize(
  "body", ["conv{}_block1_1_conv/kernel conv{}_block1_1_bn/moving_mean", "res{}a_branch2a/kernel bn{}a_branch2a/gamma"]
)
def test_keras_resnet(body):
  names = [
    "conv1_conv/kernel",
    "conv1_bn/gamma",
    *(n.format(s) for s in (2, 3, 4, 5) for n in body.split()),
    "post_bn/beta",
  ]
  got = stages(names)
  assert list(got) == ["stem", "stage1", "stage2", "stage3", "stage4"]
  assert got["stage1"] == [n.format(2) for n in body.split()]
  assert got["stage4"][-1] == "post_bn/beta"


def test_model_garden_resnet_counts_its_blocks():
  blocks = ["bottleneck_block", *(f"bottleneck_block_{i}" for i in range(1, 16))]
  got = stages(["conv2d/kernel", "batch_normalization/gamma", *(f"{block}/conv2d_1/kernel" for block in blocks)])
  assert {name: len(members) for name, members in got.items()} == {
      "stem": 2, "stage1": 3, "stage2": 4, "stage3": 6, "stage4": 3
  }  # fmt: skip
  assert got["stage3"][-1] == "bottleneck_block_12/conv2d_1/kernel"


def test_efficientnet_and_mobilenets_number_their_blocks():
  lite = [f"efficientnet-lite0/{part}/conv2d/kernel" for part in ("stem", *(f"blocks_{i}" for i in range(16)), "head")]
  assert list(stages(lite)) == ["stem", *(f"block_{i}" for i in range(16)), "top"]
  v2 = ["Conv", "expanded_conv", *(f"expanded_conv_{i}" for i in range(1, 12)), "Conv_1"]
  got = stages([f"MobilenetV2/{layer}/BatchNorm/gamma" for layer in v2])
  assert list(got) == ["stem", *(f"block_{i}" for i in range(12)), "top"]
  v1 = ["Conv2d_0/weights", *(f"Conv2d_{i}_{k}/weights" for i in range(1, 14) for k in ("depthwise", "pointwise"))]
  assert list(stages([f"MobilenetV1/{name}" for name in v1])) == ["stem", *(f"block_{i}" for i in range(1, 14))]
  keras = [
    "Conv1/kernel",
    "bn_Conv1/gamma",
    "expanded_conv_depthwise/kernel",
    "block_2_expand/kernel",
    "Conv_1_bn/beta",
  ]
  assert list(stages(keras)) == ["stem", "block_0", "block_2", "top"]


def test_transformers():
  tail = [f"layer_{i}/{name}" for i in range(12) for name in ("self_attention/query/kernel", "output_layer_norm/gamma")]
  new = ["word_embeddings/embeddings", "position_embedding/embeddings", "embeddings/layer_norm/beta"]
  new += [f"transformer/{name}" for name in tail] + ["pooler_transform/kernel"]
  old = ["bert_model/word_embeddings/embeddings", "bert_model/embedding_postprocessor/layer_norm/gamma"]
  old += [f"bert_model/encoder/{name}" for name in tail] + ["bert_model/pooler_transform/kernel"]
  for names in (new, old):
    shuffled = random.Random(0).sample(names, len(names))
    assert list(stages(shuffled)) == ["embeddings", *(f"layer_{i}" for i in range(12)), "pooler"]
  vit = ["cls", "embedding/kernel", "Transformer/posembed_input/pos_embedding", "Transformer/encoder_norm/scale"]
  vit += [f"Transformer/encoderblock_{i}/LayerNorm_0/scale" for i in (1, 10, 9)]
  got = stages(vit)
  assert list(got) == ["embeddings", "layer_1", "layer_9", "layer_10"]
  assert "Transformer/encoder_norm/scale" in got["layer_10"]


def test_shared_layers_are_one_stage():
  names = ["word_embeddings/embeddings", "embedding_projection/kernel", "transformer/self_attention/query/kernel"]
  assert list(stages([*names, "transformer/output/bias", "pooler_transform/bias"])) == [
    "embeddings",
    "layers",
    "pooler",
  ]


def test_names_without_a_family():
  assert list(stages(["trunk/body/kernel", "trunk/neck/kernel"], {"trunk/neck/kernel": 1, "trunk/body/kernel": 2})) == [
    "neck",
    "body",
  ]
  assert list(stages(["first/kernel", "layer_1/kernel", "layer_0/kernel", "last/kernel"])) == [
    "stem",
    "layer_0",
    "layer_1",
    "top",
  ]
  for meaningless in (
    ["Variable", "Variable_1"],
    ["kernel", "w_12"],
    ["conv2d/kernel", "dense_1/bias", "batch_normalization/gamma"],
  ):
    assert stages(meaningless) == {}


def test_every_variable_is_in_one_stage_whatever_else_a_module_holds():
  names = ["counter", "transformer/layer_0/a", "odd/kernel", "transformer/layer_1/a", "rest/kernel", "rest/moving_mean"]
  got = stages(names)
  assert sorted(sum(got.values(), [])) == sorted(names)
  assert list(got) == ["stem", "layer_0", "layer_1", "top"]
  assert got["layer_0"] == ["transformer/layer_0/a", "odd/kernel"]


def test_graph_order_keeps_a_layer_together():
  shapes = {name: shape for i in range(20) for name, shape in ((f"b{i}", (4,)), (f"k{i}", (4, 4)))}
  order = {f"{kind}{i}": 10 * (20 - i) + (kind == "b") for i in range(20) for kind in "kb"}
  got = stages_by_name.by_order(shapes, order)
  assert list(got) == [f"part_{i}" for i in range(1, 9)]
  assert sum(got.values(), []) == [f"{kind}{i}" for i in range(19, -1, -1) for kind in "kb"]
  assert all(members[0].startswith("k") and members[-1].startswith("b") for members in got.values())


def test_patterns_of_a_record_are_total():
  patterns = (("low", r"^a"), ("high", r"^b"))
  assert stages_by_name.by_patterns(["b1", "a1"], patterns) == {"low": ["a1"], "high": ["b1"]}
  with pytest.raises(UserError, match="matches its variable c1"):
    stages_by_name.by_patterns(["a1", "c1"], patterns)


def test_stages_never_take_the_name_of_the_new_head():
  shapes = {f"net/{part}/{name}/kernel": (8, 8) for part in ("body", "neck", "head") for name in ("one", "two")}
  assert list(stages_by_name.partition(shapes)) == ["body", "neck", "own_head"]


@pytest.mark.parametrize(
  ("layer", "table"),
  [
    ("bert/encoder/layer_._{}/attention/kernel", "bert/embeddings/word_embeddings/weight"),
    ("encoder.layer.{}.attention.weight", "embeddings.word_embeddings.weight"),
  ],
)
def test_layers_as_hugging_face_names_them(layer, table):
  shapes = {table: (90, 8)} | {layer.format(i): (8, 8) for i in (0, 1, 10, 2)}
  assert list(stages_by_name.partition(shapes)) == ["embeddings", "layer_0", "layer_1", "layer_2", "layer_10"]
