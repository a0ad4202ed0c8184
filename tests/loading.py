"""Loading a data set in a test, and writing small ones of any content."""

import pytest

from tl_app import data
from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.errors import UserError


class LocalAssets:
  """Stands for `Assets` where nothing is fetched: `wheel` gives a directory that the test has filled."""

  offline, bundle, bundled_data_dir = False, "", ""

  def __init__(self, root):
    self.root = root

  def data_set(self, source, directory, name, version, licence):
    assert source.startswith("tfds:") and directory.endswith(f"{name}/{version}") and licence

  def wheel(self, requirement, sha256, members, licence):
    assert requirement == "vaderSentiment==0.5"
    assert len(sha256) == 64
    return self.root


def looks_good(encoded):
  """A stand-in for the decoder: what begins with "good" is an image."""
  return None if encoded.startswith(b"good") else "it is damaged"


def load(name, verify=looks_good, assets=None, known=frozenset(), **flags):
  config = Config(dataset=str(name), **flags)
  return data.load(config, assets or Assets(config.cache_dir, config.offline), verify, known)


def refusal(name, verify=looks_good, **flags):
  with pytest.raises(UserError) as caught:
    load(name, verify, **flags)
  message = str(caught.value)
  assert "\n" not in message
  return message


def write_images(root, *names, content=b"good"):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content + name.encode())
  return root


def write(path, text, encoding="utf-8"):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(text.encode(encoding))
  return path
