"""The export: raw bytes or strings in, class names out, in a process that knows TensorFlow and nothing of tl_app."""

import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rest_server
import tensorflow as tf
import tiny_data
import tiny_modules

from tl_app import backbones, files, workdir
from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.data.examples import Inputs
from tl_app.errors import RunFailed
from tl_app.model import heads, inference
from tl_app.model import model as model_lib
from tl_app.serving import handover, parity, saved_model
from tl_app.tasks import SINGLE_LABEL, statistics

pytestmark = pytest.mark.slow

COLOURS = ["blue", "green", "réd"]
TEXTS = Inputs.of(
  "text", ["the film is good", "bad, bad film!", "word3", "CAFE is the good word1 and an unknown one " * 5]
)


ABOUT = handover.About("# A card\n")


def load(directory, class_names, inputs, **flags):
  """Returns the `Model` of a SavedModel, with a head that tells `inputs` apart at random."""
  config = Config(backbone=str(directory), **flags)
  assets = Assets(str(pathlib.Path(directory).parent / "cache"), True)
  model = model_lib.load(
    config,
    backbones.resolve(config.backbone),
    assets,
    SINGLE_LABEL.with_codec(names=tuple(class_names)),
    config.max_length,
  )
  kernel = model.head.get_layer("logits").kernel
  kernel.assign(np.random.default_rng(0).normal(size=kernel.shape, scale=0.7))
  heads.standardize(model.head, inference.predict(model.features, model.backbone, inputs, batch_size=3))
  return model


def probabilities(model, inputs):
  return statistics.softmax(inference.predict(model.network, model.backbone, inputs, batch_size=3))


def proved(model, directory, inputs):
  """Exports the model and proves it in a process of its own, which other tests fork, see `warm_process`."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parity, "subprocess", subprocess)
    return parity.export_and_prove(model, directory, inputs, probabilities(model, inputs), about=ABOUT)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """Returns (the exported `Model`, its inputs, its export, the proof)."""
  root = tmp_path_factory.mktemp("images")
  tiny_data.colours(root / "colours", per_class=2)
  (root / "wide.jpg").write_bytes(tf.io.encode_jpeg(np.full([20, 31, 3], 90, np.uint8)).numpy())
  (root / "grey.png").write_bytes(tf.io.encode_png(np.full([9, 9, 1], 60, np.uint8)).numpy())
  inputs = Inputs.of("image", [str(path) for path in sorted(root.rglob("*.*g"))])
  model = load(tiny_modules.image(root / "module"), COLOURS, inputs, image_size=16)
  return (
    model,
    inputs,
    root / "export",
    proved(model, root / "export", inputs),
  )


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
  root = tmp_path_factory.mktemp("texts")
  model = load(tiny_modules.bert(root / "module"), ["negative", "positive"], TEXTS, max_length=12)
  return (
    model,
    TEXTS,
    root / "export",
    proved(model, root / "export", TEXTS),
  )


def test_an_export_answers_an_empty_batch(images, texts):
  for _, _, export, _ in (images, texts):
    signatures = tf.saved_model.load(str(export)).signatures
    outputs = signatures["serving_default"](inputs=tf.zeros([0], tf.string))
    assert {name: value.shape[0] for name, value in outputs.items()} == dict.fromkeys(
      ("label", "score", "probabilities"), 0
    )
    assert signatures["features"](inputs=tf.zeros([0], tf.string))["features"].shape[0] == 0


class _Counts(tf.Module):
  """Answers with the number of inputs of the call."""

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
  def serve(self, inputs):
    return {"batch": tf.repeat(tf.size(inputs)[None], tf.size(inputs))}


def test_the_fresh_process_takes_as_many_at_a_time_as_memory_holds(tmp_path, images, monkeypatch):
  module = _Counts()
  tf.saved_model.save(module, str(tmp_path / "counts"), signatures=module.serve)
  with parity.Client("image") as client:
    batches = [[(b"x",)] * 2, [(b"x",)] * 2, [(b"x",)]]
    assert parity.joined(client.answer(tmp_path / "counts", batches))["batch"].tolist() == [2, 2, 2, 2, 1]
  model, inputs, _, _ = images
  monkeypatch.setattr(saved_model, "write", lambda model, directory: directory.mkdir())
  monkeypatch.setattr(parity, "prove", lambda *args: (args[-1], (), {}))
  for fits, taken in ((2, 2), (64, parity.BATCH)):
    client = contextlib.nullcontext()
    assert (
      parity.export_and_prove(model, tmp_path / "export", inputs, np.zeros([len(inputs), 3]), client, fits) == taken
    )


CLIENT = """
import json, pathlib, sys
import tensorflow as tf

def ask(directory, values):
  loaded = tf.saved_model.load(directory)
  served, features = loaded.signatures["serving_default"], loaded.signatures["features"]
  outputs = served(inputs=tf.constant(values))
  return {
    "inputs": sorted(served.structured_input_signature[1]),
    "outputs": {name: [value.dtype.name, value.shape.as_list()] for name, value in served.structured_outputs.items()},
    "label": [label.decode() for label in outputs["label"].numpy()],
    "score": outputs["score"].numpy().tolist(),
    "probabilities": outputs["probabilities"].numpy().tolist(),
    "one": served(inputs=tf.constant(values[:1]))["probabilities"].numpy().tolist(),
    "features": features(inputs=tf.constant(values))["features"].numpy().tolist(),
  }

asked = json.load(open(sys.argv[1]))
answers = {"images": ask(asked["image_export"], [pathlib.Path(path).read_bytes() for path in asked["images"]])}
import tensorflow_text
answers["texts"] = ask(asked["text_export"], asked["texts"])
answers["strangers"] = sorted({"tl_app", "keras_hub", "tensorflow_hub"} & {name.split(".")[0] for name in sys.modules})
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(images, texts, tmp_path_factory):
  """What a client in a new process gets from both exports."""
  path = tmp_path_factory.mktemp("client") / "asked.json"
  asked = {
    "image_export": str(images[2]),
    "images": list(images[1].array()),
    "text_export": str(texts[2]),
    "texts": list(texts[1].array()),
  }
  path.write_text(json.dumps(asked))
  # -P: nothing of this package's directory is on the path.
  command = [sys.executable, "-P", "-c", CLIENT, str(path)]
  done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent)
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout)


@pytest.mark.parametrize("modality", ["images", "texts"])
def test_a_client_gets_the_answers_of_the_evaluation(modality, answers, request):
  model, inputs, _, _ = request.getfixturevalue(modality)
  expected, given = probabilities(model, inputs), answers[modality]
  np.testing.assert_allclose(given["probabilities"], expected, atol=1e-5)
  np.testing.assert_allclose(given["one"], expected[:1], atol=1e-5)
  assert given["label"] == [model.task.names[i] for i in expected.argmax(axis=1)]
  np.testing.assert_allclose(given["score"], expected.max(axis=1), atol=1e-5)
  wanted = inference.predict(model.features, model.backbone, inputs, batch_size=3)
  np.testing.assert_allclose(given["features"], wanted, atol=1e-5)
  assert len(set(given["label"])) > 1


@pytest.mark.parametrize(("modality", "classes"), [("images", 3), ("texts", 2)])
def test_the_signature_is_that_of_the_contract(modality, classes, answers):
  assert answers[modality]["inputs"] == ["inputs"]
  assert answers[modality]["outputs"] == {
    "label": ["string", [None]],
    "score": ["float32", [None]],
    "probabilities": ["float32", [None, classes]],
  }
  assert answers["strangers"] == []


def test_images_are_answered_over_rest(images):
  assert rest_server.check_example(images[2])["label"] in COLOURS


@pytest.mark.parametrize("modality", ["images", "texts"])
def test_the_command_of_the_readme_gives_the_example_answer(modality, request, tmp_path):
  export = shutil.copytree(request.getfixturevalue(modality)[2], tmp_path / "export")
  (instance,) = files.read_json(export / handover.REQUEST)["instances"]
  example = base64.b64decode(instance["b64"])
  readme = (export / handover.README).read_text()
  (command,) = re.search(r"## Command line\n.*?```bash\n(.*?)```", readme, re.DOTALL).groups()
  if modality == "images":
    (export / "photo.jpg").write_bytes(example)
  else:
    command = command.replace("a text", example.decode())
  environment = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
  command = f"{command.strip()} --outdir {tmp_path}"
  done = subprocess.run(
    ["bash", "-c", command], cwd=export, env=environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr[-2000:]
  (answer,) = files.read_json(export / handover.ANSWER)["predictions"]
  np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), [answer["probabilities"]], atol=1e-5)
  assert f"[{answer['label'].encode()!r}]" in done.stdout


def test_labels_are_in_the_assets(images):
  model, _, export, proof = images
  assert (export / "assets/labels.txt").read_text(encoding="utf-8").splitlines() == COLOURS
  facts = files.read_json(export / workdir.EXPORT_FACTS)
  assert list(facts.pop("stages")) == list(model.stages)
  assert facts.pop("origin") == {
    "backbone": model.backbone.spec.name,
    "preprocessor": "",
    "pooling": "auto",
    "image_size": 16,
    "pixels": "auto",
    "init": "auto",
    "network_width": 0,
    "network_depth": 0,
  }
  assert facts == {
    "modality": "image",
    "class_names": COLOURS,
    "backbone": model.backbone.spec.name,
    "pairs": False,
    "columns": {},
    "task": json.loads(json.dumps(model.task.get_config())),
    "downloads": [],
  }
  assert proof["num_examples"] == 8 and proof["label_flips"] == 0 and proof["max_probability_difference"] <= 1e-5
  assert [path.name for path in export.parent.iterdir() if path.name.startswith(".")] == []


def test_an_export_that_answers_otherwise_is_removed(texts, tmp_path, monkeypatch):
  model, inputs, _, _ = texts
  directory, expected = tmp_path / "export", probabilities(model, inputs)
  directory.mkdir()
  (directory / "saved_model.pb").write_text("an earlier export")
  bias, honest = model.head.get_layer("logits").bias, saved_model.write

  def perturbed(model, path):
    bias.assign_add([0.005, 0.0])
    honest(model, path)
    bias.assign_add([-0.005, 0.0])

  monkeypatch.setattr(saved_model, "write", perturbed)
  with pytest.raises(RunFailed, match="4 test examples .* 0 labels differ, largest probability difference 1e-03"):
    parity.export_and_prove(model, directory, inputs, expected)
  assert list(tmp_path.iterdir()) == []


def test_an_export_that_does_not_run_is_removed(images, tmp_path, monkeypatch):
  model, inputs, _, _ = images

  def damaged(model, path):
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"no protocol buffer")

  monkeypatch.setattr(saved_model, "write", damaged)
  with pytest.raises(RunFailed, match="export check: the export does not run in a new process .*; no export is left"):
    parity.export_and_prove(model, tmp_path / "export", inputs, np.full([len(inputs), 3], 1 / 3))
  assert list(tmp_path.iterdir()) == []


def test_the_earlier_export_stays_until_the_new_one_is_proven(images, tmp_path, monkeypatch):
  model, inputs, _, _ = images
  (tmp_path / "export").mkdir()
  (tmp_path / "export" / "saved_model.pb").write_text("an earlier export")

  def interrupted(model, path):
    raise KeyboardInterrupt

  monkeypatch.setattr(saved_model, "write", interrupted)
  with pytest.raises(KeyboardInterrupt):
    parity.export_and_prove(model, tmp_path / "export", inputs, np.full([len(inputs), 3], 1 / 3))
  assert (tmp_path / "export" / "saved_model.pb").read_text() == "an earlier export"


def test_a_tie_is_no_flip_and_nan_is_a_difference():
  expected = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])

  def proof(labels, probabilities=expected):
    answer = {"label": np.array(labels), "probabilities": np.array(probabilities)}
    return SINGLE_LABEL.with_codec(names=("no", "yes")).answers.parity(answer, expected)

  assert proof(["yes", "no", "yes"])["label_flips"] == 0
  assert proof(["no", "yes", "no"])["label_flips"] == 2
  assert proof(["no", "no", "yes"], expected + [[0, 0], [0.01, -0.01], [0, 0]])["max_probability_difference"] == (
    pytest.approx(0.01)
  )
  assert proof(["no", "no", "yes"], expected * np.nan)["max_probability_difference"] == 1.0
