"""Every record of the table, checked against the libraries that are installed. No network, no weights."""

import itertools
import re
import socket
import subprocess
import sys
import types

import numpy as np
import pytest

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.backbones.table import CAFFE_MEAN, SPECS
from tl_app.errors import UserError

HANDLES = {
  "saved_model": r"https://tfhub\.dev/(google|tensorflow)/\S+/\d+",
  "kerashub": r"kaggle://keras/[\w.-]+/keras/\w+/\d+",
  "applications": r"[A-Z]\w+",
  "bert_safetensors": r"[\w.-]+==[\d.]+( [\w.-]+==[\d.]+)*",
  "bert_q4": r"[\w.-]+==[\d.]+",
  "efficientnet_lite_torch": r"[\w.-]+==[\d.]+",
  "scratch": r"\w+",
}
REQUIRED = {
  "resnet50.tfhub",
  "resnet50.kerashub",
  "resnet50.applications",
  "bert_base.tfhub",
  "bert_base.kerashub",
  "bert_base_multilingual.tfhub",
  "bert_base_multilingual.kerashub",
  "bert_base_chinese.tfhub",
  "bert_base_chinese.kerashub",
  "minilm_l6.pypi",
  "minilm_l6.kerashub",
  "mpnet_base.pypi",
  "efficientnet_lite0.pypi",
  "efficientnet_lite0.tfhub",
  "mobilenet_v3_small.tfhub",
  "mobilenet_v3_small.kerashub",
  "mobilenet_v3_small.applications",
}
# Of the records with another image size than 224.
SIZES = {"efficientnet_lite1.pypi": 240, "efficientnet_lite2.pypi": 260, "cnn_small.scratch": 32}
SAME_PIXELS = np.array([[[[0.0, 128.0, 255.0], [10.0, 20.0, 30.0]]]], np.float32)


def records(kind):
  return [pytest.param(spec, id=spec.name) for spec in SPECS if spec.kind == kind]


@pytest.mark.parametrize("spec", [pytest.param(spec, id=spec.name) for spec in SPECS])
def test_record(spec):
  assert re.fullmatch(r"[a-z0-9_]+\.(tfhub|kerashub|applications|pypi|scratch)", spec.name)
  assert re.fullmatch(HANDLES[spec.kind], spec.handle)
  assert spec.licence in (("Apache-2.0", "MIT") if spec.pretrained else ("none",))
  assert spec.parameters > 300_000 and spec.note
  assert spec.pooling in ("mean", "cls", "pooler")
  if spec.modality == "image":
    assert spec.image_size == SIZES.get(spec.name, 224) and spec.max_length == 0 and not spec.preprocessor
    assert spec.value_range in ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
  else:
    assert spec.modality == "text" and spec.max_length == 512 and spec.image_size == 0
    assert not spec.preprocessor or re.fullmatch(HANDLES["saved_model"], spec.preprocessor)
  assert spec.pretrained == (not spec.width) == (not spec.depth) == (not spec.name.endswith(".scratch"))
  assert bool(spec.sha256) == spec.name.endswith(".pypi")
  if spec.sha256:
    sums = spec.sha256.split(" ")
    assert len(sums) == len(spec.handle.split(" ")) and spec.files
    assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in sums)
  if spec.kind == "saved_model":
    assert spec.stages == () and spec.mean == ()
    assert (spec.modality == "text") == bool(spec.preprocessor)


def test_table_names():
  names = [spec.name for spec in SPECS]
  assert len(set(names)) == len(names)
  assert set(names) >= REQUIRED
  families = [name.partition(".")[0] for name in names]
  assert len(list(itertools.groupby(families))) == len(set(families)), "the records of a family stand together"
  assert [row["name"] for row in backbones.table()] == names


@pytest.mark.parametrize(
  "family, first",
  [
    ("resnet50", "resnet50.tfhub"),
    ("minilm_l6", "minilm_l6.pypi"),
    ("efficientnet_lite0", "efficientnet_lite0.pypi"),
    ("bert_base", "bert_base.tfhub"),
    ("bert_base_chinese", "bert_base_chinese.tfhub"),
    ("mobilenet_v3_small", "mobilenet_v3_small.tfhub"),
  ],
)
def test_family_takes_its_first_source(family, first):
  assert backbones.resolve(family).name == first
  assert backbones.resolve(first).name == first


@pytest.mark.parametrize("spec", records("kerashub"))
def test_kerashub_presets_are_registered(spec):
  import keras_hub

  name = spec.handle.split("/")[-2]
  preset = keras_hub.models.Backbone.presets[name]
  assert preset["kaggle_handle"] == spec.handle
  assert preset["metadata"]["params"] == spec.parameters


@pytest.mark.slow
@pytest.mark.parametrize("spec", records("applications"))
def test_applications_match_their_record(spec, monkeypatch):
  import keras

  model_class = getattr(keras.applications, spec.handle)
  network = model_class(weights=None, include_top=False, input_shape=(spec.image_size, spec.image_size, 3))
  assert network.count_params() == spec.parameters
  assert_total(spec.stages, network)

  module = sys.modules[model_class.__module__]
  low, high = spec.value_range
  pixels = SAME_PIXELS / 255.0 * (high - low) + low
  pixels = pixels - np.array(spec.mean or (0.0, 0.0, 0.0), np.float32)
  pixels = pixels[..., ::-1] if spec.channels == "BGR" else pixels
  preprocess = module.preprocess_input
  if spec.handle == "ResNet50V2":
    preprocess = keras.applications.resnet_v2.preprocess_input
  np.testing.assert_allclose(pixels, preprocess(SAME_PIXELS.copy()), atol=1e-4)

  def wanted(name, *args, **kwargs):
    raise InterruptedError(name)

  monkeypatch.setattr(keras.src.utils.file_utils, "get_file", wanted)
  with pytest.raises(InterruptedError, match=f"^{re.escape(spec.files[0])}$"):
    model_class(weights="imagenet", include_top=False, input_shape=(spec.image_size, spec.image_size, 3))


def test_kerashub_resnet50_stages():
  import keras_hub

  network = keras_hub.models.ResNetBackbone(
    input_conv_filters=[64],
    input_conv_kernel_sizes=[7],
    stackwise_num_filters=[64, 128, 256, 512],
    stackwise_num_blocks=[3, 4, 6, 3],
    stackwise_num_strides=[1, 2, 2, 2],
    block_type="bottleneck_block",
  )
  spec = backbones.resolve("resnet50.kerashub")
  assert network.count_params() == spec.parameters
  assert_total(spec.stages, network)


@pytest.mark.slow
def test_kerashub_mobilenet_v3_small_stages():
  import keras_hub

  blocks = [2, 3, 2, 3]
  network = keras_hub.models.MobileNetBackbone(
    stackwise_expansion=[[72, 88], [96, 240, 240], [120, 144], [288, 576, 576]],
    stackwise_num_blocks=blocks,
    stackwise_num_filters=[[24] * 2, [40] * 3, [48] * 2, [96] * 3],
    stackwise_kernel_size=[[3] * 2, [5] * 3, [5] * 2, [5] * 3],
    stackwise_num_strides=[[2, 1], [2, 1, 1], [1, 1], [2, 1, 1]],
    stackwise_se_ratio=[[None] * 2, [0.25] * 3, [0.25] * 2, [0.25] * 3],
    stackwise_activation=[["relu"] * 2, *(["hard_swish"] * n for n in blocks[1:])],
    stackwise_padding=[[1] * 2, [2] * 3, [2] * 2, [2] * 3],
    output_num_filters=576,
    input_activation="hard_swish",
    output_activation="hard_swish",
    input_num_filters=16,
    depthwise_filters=8,
    depthwise_stride=2,
    depthwise_residual=False,
    squeeze_and_excite=0.5,
    last_layer_filter=576,
    image_shape=(224, 224, 3),
  )
  spec = backbones.resolve("mobilenet_v3_small.kerashub")
  # The squeezed widths of this config are rounded otherwise than the preset's.
  assert abs(network.count_params() / spec.parameters - 1) < 0.01
  assert_total(spec.stages, network)


def assert_total(stages, network):
  """Every weight is in exactly one stage; in the order of the graph no stage comes before the one below it."""
  order = []
  for weight in network.weights:
    matching = [i for i, (_, pattern) in enumerate(stages) if re.match(pattern, weight.path)]
    assert len(matching) == 1, (weight.path, [stages[i][0] for i in matching])
    order.append(matching[0])
  assert order == sorted(order)
  assert set(order) == set(range(len(stages)))


@pytest.mark.parametrize(
  "handle, kind",
  [
    ("https://tfhub.dev/google/nobody/feature_vector/1", "saved_model"),
    ("https://www.kaggle.com/models/google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2", "saved_model"),
    ("kaggle://keras/bert/keras/bert_tiny_en_uncased/3", "kerashub"),
    ("hf://google-bert/bert-base-uncased", "kerashub"),
  ],
)
def test_handles(handle, kind, monkeypatch):
  def refuse(*args):
    raise AssertionError("resolving used the network")

  monkeypatch.setattr(socket.socket, "connect", refuse)
  spec = backbones.resolve(handle)
  assert (spec.name, spec.handle, spec.kind) == (handle, handle, kind)


def test_url_of_a_table_record_keeps_what_the_table_knows():
  url = "https://tfhub.dev/tensorflow/bert_zh_L-12_H-768_A-12/4"
  spec = backbones.resolve(url)
  assert spec.name == url and spec.preprocessor == "https://tfhub.dev/tensorflow/bert_zh_preprocess/3"


def test_directories(tmp_path):
  (tmp_path / "module").mkdir()
  (tmp_path / "module" / "saved_model.pb").write_bytes(b"")
  (tmp_path / "preset").mkdir()
  (tmp_path / "preset" / "config.json").write_text("{}")
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "photo.jpg").write_bytes(b"")
  assert backbones.resolve(str(tmp_path / "module")).kind == "saved_model"
  assert backbones.resolve(str(tmp_path / "preset")).kind == "kerashub"
  with pytest.raises(UserError, match=r"neither saved_model.pb nor config.json; it holds photo.jpg"):
    backbones.resolve(str(tmp_path / "other"))


@pytest.mark.parametrize(
  "name, near",
  [
    ("resnet50.tfhubb", "resnet50.tfhub"),
    ("resnet_50", "resnet50"),
    ("minilm", "minilm_l6"),
    ("bert-base", "bert_base"),
    ("mobilenet_v3_smal", "mobilenet_v3_small"),
  ],
)
def test_unknown_name_suggests_the_nearest(name, near):
  with pytest.raises(UserError, match=rf"did you mean {near}[^?]*\?") as caught:
    backbones.resolve(name)
  message = str(caught.value)
  assert "\n" not in message and "hf://" in message and "saved_model.pb" in message
  assert all(spec.name in message for spec in SPECS)


@pytest.mark.parametrize("name", ["", "qqqqqqq", "http://example.org/module"])
def test_nonsense_lists_names_and_forms(name):
  with pytest.raises(UserError, match="is not known.*Names: .*Or give"):
    backbones.resolve(name)


@pytest.mark.parametrize(
  ("name", "hint"),
  [
    ("/no/such/directory", "; there is no /no either; give"),
    ("runs/mine", ", seen from .*; give"),
    ("./mine", ", seen from .*; give"),
    ("file:///mine/module", "; there is no /mine either; give"),
  ],
)
def test_a_path_that_is_not_there_is_told_where_it_was_looked_for(name, hint):
  with pytest.raises(UserError, match=f"there is no such file or directory{hint}"):
    backbones.resolve(name)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("model.xyz", "is a file of no known form: give a tfhub"),
    ("model.onnx", "known form: give the model from which the ONNX file was converted; or give"),
    ("model.pt", "give the directory with its config.json; or give"),
    ("model.tar.gz", "unpack it and give its directory; or give"),
    ("saved_model.pb", "{}$"),
  ],
)
def test_a_file_of_another_form_is_told(tmp_path, name, message):
  (tmp_path / name).write_bytes(b"0")
  with pytest.raises(UserError, match=message.format(f"give its directory, --backbone={tmp_path}")):
    backbones.resolve(str(tmp_path / name))


def test_load_dispatches_by_kind(monkeypatch, tmp_path):
  calls = {}
  fake = type(sys)("fake")
  loaded = types.SimpleNamespace(spec=backbones.resolve("bert_base.tfhub"), preprocess=types.SimpleNamespace(size=0))
  fake.load = lambda *args, **kwargs: calls.update(args=args, **kwargs) or loaded
  for module in ("saved_model", "native"):
    monkeypatch.setitem(sys.modules, f"tl_app.backbones.{module}", fake)
    monkeypatch.setattr(backbones, module, fake, raising=False)
  monkeypatch.setattr(Assets, "hub_module", lambda self, handle, licence="": f"dir of {handle}")
  spec = backbones.resolve("bert_base.tfhub")
  assert backbones.load(spec, Assets(tmp_path)) is loaded
  assert calls["args"] == (f"dir of {spec.handle}", spec)
  assert calls["preprocessor"] == f"dir of {spec.preprocessor}" and calls["pooling"] == "auto"
  backbones.load(spec, Assets(tmp_path), preprocessor="mine", pooling="cls")
  assert calls["preprocessor"] == "dir of mine" and calls["pooling"] == "cls"
  backbones.load(backbones.resolve("resnet50.tfhub"), Assets(tmp_path), image_size=160)
  assert calls["preprocessor"] is None and calls["image_size"] == 160
  native = backbones.resolve("minilm_l6")
  backbones.load(native, Assets(tmp_path))
  assert calls["args"][0] is native and calls["pooling"] == "auto"
  with pytest.raises(UserError, match="--preprocessor=mine"):
    backbones.load(native, Assets(tmp_path), preprocessor="mine")


@pytest.mark.slow
def test_resolving_imports_no_tensorflow():
  code = (
    "import sys; from tl_app import assets, backbones; backbones.resolve('minilm_l6'); backbones.table();"
    "bad = {'tensorflow', 'keras', 'numpy', 'pandas'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr


def test_caffe_mean_is_in_rgb_order():
  assert CAFFE_MEAN[0] > CAFFE_MEAN[1] > CAFFE_MEAN[2]
