"""`tfds:NAME`: prepared directories, and what is told where there is none."""

import hashlib
import pathlib
import shutil
import urllib.parse

import pytest
import requests
from loading import LocalAssets, load, refusal

from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.data.readers import sources
from tl_app.errors import UserError


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
  """Prepared sets: `small_images` 1.0.0 (train, test), `small_texts` 2.1.0 (one split), `two_configs` (a, b) 1.2.0."""
  import numpy as np
  import tensorflow_datasets as tfds

  class SmallImages(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "kind": tfds.features.ClassLabel(names=["cat", "ant"]),
        "file": tfds.features.Text(),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "kind")
      )

    def _split_generators(self, dl_manager):
      return {name: self._generate_examples(start) for start, name in enumerate(["train", "test", "extra"])}

    def _generate_examples(self, start):
      for number in range(4):
        pixels = np.full((5, 4, 3), 10 * start + number, np.uint8)
        yield number, {"image": pixels, "kind": number % 2, "file": f"{number}.png"}

  class SmallTexts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("2.1.0")

    def _info(self):
      features = {"words": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["no", "yes"])}
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {"full": self._generate_examples()}

    def _generate_examples(self):
      for number in range(6):
        yield number, {"words": f"größe {number}", "label": number % 2 if number < 5 else -1}

  class TwoConfigs(SmallTexts):
    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("a", "b")]

    def _generate_examples(self):
      for number in range(4):
        yield number, {"words": f"{self.builder_config.name} {number}", "label": number % 2}

  root = tmp_path_factory.mktemp("tfds")
  for name in ("a", "b"):
    TwoConfigs(config=name, data_dir=root).download_and_prepare()
  for builder in (SmallImages, SmallTexts):
    builder(data_dir=root).download_and_prepare()
  return root


@pytest.mark.slow
def test_tfds_images_stay_encoded_in_files(tfds_dir, tmp_path):
  import tensorflow as tf

  flags = {"data_dir": str(tfds_dir), "offline": True, "verify": None, "assets": LocalAssets(tmp_path)}
  examples = load("tfds:small_images", **flags)
  assert list(examples.splits) == ["train"] * 4 + ["test"] * 4
  assert sorted(examples.labels[:4]) == ["ant", "ant", "cat", "cat"]
  assert list(examples.ids[:2]) == ["train:1", "train:2"]
  assert "extra" in examples.notes[0]
  for path, digest in zip(examples.inputs.array(), examples.hashes):
    encoded = pathlib.Path(path).read_bytes()
    assert hashlib.sha256(encoded).hexdigest() == digest
    assert tf.io.decode_png(encoded).shape == (5, 4, 3)
  again = load("tfds:small_images:1.0.0", **flags)
  assert list(again.inputs.array()) == list(examples.inputs.array())


def test_features_of_slices_are_kept_beside_the_inputs(tfds_dir, tmp_path):
  flags = {"data_dir": str(tfds_dir), "offline": True, "verify": None, "assets": LocalAssets(tmp_path)}
  examples = load("tfds:small_images", slice_columns="file,kind", **flags)
  assert set(examples.metadata["file"]) == {f"{number}.png" for number in range(4)}
  assert list(examples.metadata["kind"]) == list(examples.labels)
  assert "no feature 'files' (--slice_columns)" in refusal("tfds:small_images", slice_columns="files", **flags)


def test_tfds_texts(tfds_dir):
  flags = {"data_dir": str(tfds_dir), "on_bad_example": "skip"}
  examples = load("tfds:small_texts", **flags)
  assert sorted(zip(examples.inputs.array(), examples.labels)) == [
    (f"größe {number}", "yes" if number % 2 else "no") for number in range(5)
  ]
  assert set(examples.splits) == {""}
  assert [bad["reason"] for bad in examples.skipped] == ["it has no label"]
  names = load("tfds:small_images", text_column="file", label_column="kind", **flags)
  assert sorted(names.inputs.array()[:4]) == ["0.png", "1.png", "2.png", "3.png"]


def test_tfds_by_config_and_version(tfds_dir):
  flags = {"data_dir": str(tfds_dir), "offline": True}
  for name in ("two_configs/b:1.2.0", "two_configs/b"):
    assert sorted(load(f"tfds:{name}", **flags).inputs.array()) == [f"b {number}" for number in range(4)]
  assert "of two_configs there is: a, b" in refusal("tfds:two_configs/c", **flags)
  assert "is not prepared" in refusal("tfds:two_configs/b:9.9.9", **flags)


def test_a_prepared_directory_is_also_read_as_tfrecord(tfds_dir):
  found = load(f"tfrecord:{tfds_dir / 'small_images' / '1.0.0'}", label_column="kind", verify=None)
  same = load("tfds:small_images", data_dir=str(tfds_dir), verify=None, assets=LocalAssets(tfds_dir / "cache"))
  assert list(found.splits) == list(same.splits)
  assert list(found.hashes) == list(same.hashes)
  assert list(found.labels) == list(same.labels)


def test_tfds_refusals(tfds_dir):
  flags = {"data_dir": str(tfds_dir), "offline": True}
  assert "did you mean small_images?" in refusal("tfds:small_image", **flags)
  assert "did you mean mnist?" in refusal("tfds:mnits", **flags)
  assert "--offline" in refusal("tfds:mnist", **flags)
  assert "of small_texts there is: 2.1.0" in refusal("tfds:small_texts:9.9.9", **flags)
  assert "tfds:NAME[/CONFIG][:VERSION]" in refusal("tfds:two words", **flags)
  assert "--data_dir" in refusal("tfds:mnist", data_dir=str(tfds_dir / "missing"))
  assert "no feature 'wrods' (--text_column)" in refusal("tfds:small_texts", text_column="wrods", **flags)
  assert "cannot tell" in refusal("tfds:small_texts", text_column="label", **flags)


@pytest.mark.slow
def test_tfds_comes_from_a_bundle(tfds_dir, tmp_path):
  flags = {"dataset": "tfds:two_configs/b", "data_dir": str(tfds_dir)}
  assets = Assets(str(tmp_path / "cache"), True)
  sources.download(Config(**flags), assets)
  assert [(entry.source, entry.revision, dict(entry.files)) for entry in assets.downloads()] == [
    ("tfds:two_configs/b", "1.2.0", {})
  ]
  (download,) = assets.write_bundle(tmp_path / "data.tar")
  assert download.path == "tfds/two_configs/b/1.2.0" and "dataset_info.json" in download.files
  bundle = {"bundle": str(tmp_path / "data.tar"), "cache_dir": str(tmp_path / "other")}
  bundled = Assets.of(Config(**bundle))
  again = load("tfds:two_configs/b", assets=bundled, **bundle)
  assert list(again.inputs.array()) == list(load(**{"name": flags.pop("dataset")} | flags, offline=True).inputs.array())
  assert bundled.downloads() == [download]
  with pytest.raises(
    UserError, match=r"--bundle=.*data.tar, which does not hold it, forbids to download it; of two_co"
  ):
    load("tfds:two_configs/a", assets=bundled, **bundle)
  (record,) = (tmp_path / "other/bundles").rglob("*.tfrecord*")
  record.write_bytes(record.read_bytes()[:-1] + b"x")
  assert list(load("tfds:two_configs/b", assets=Assets.of(Config(**bundle)), **bundle).hashes) == list(again.hashes)


def test_a_damaged_record_is_an_error(tfds_dir, tmp_path):
  shutil.copytree(tfds_dir / "small_texts", tmp_path / "small_texts")
  path = next((tmp_path / "small_texts").rglob("*tfrecord*"))
  content = bytearray(path.read_bytes())
  content[20] ^= 1
  path.write_bytes(content)
  message = refusal("tfds:small_texts", data_dir=str(tmp_path))
  assert "a record of its split full in" in message and "prepare the data set again" in message


def test_tfds_without_a_network_is_told_at_once(tmp_path, monkeypatch, capfd):
  pytest.importorskip("importlib_resources")
  asked = []

  def unreachable(url, **_):
    asked.append(url)
    raise requests.ConnectionError

  monkeypatch.setattr(requests, "get", unreachable)
  message = refusal("tfds:tf_flowers", data_dir=str(tmp_path))
  assert f"not prepared in {tmp_path} (--data_dir) and {urllib.parse.urlsplit(asked[0]).hostname} cannot be" in message
  assert len(asked) == 1
  assert list(tmp_path.iterdir()) == []
  assert capfd.readouterr().out == ""
