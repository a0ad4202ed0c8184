"""A package index, a module server, and a machine without a network."""

import hashlib
import os
import pathlib
import socket
import subprocess

import pytest


@pytest.fixture
def index(tmp_path, monkeypatch):
  """A directory of archives that pip takes for its only index."""
  directory = tmp_path / "index"
  directory.mkdir()
  for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
  monkeypatch.setenv("PIP_NO_INDEX", "1")
  monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
  return directory


@pytest.fixture
def no_network(monkeypatch):
  """Any attempt to reach another machine, or to start pip, fails the test."""

  def refuse(*args, **kwargs):
    raise AssertionError(f"the network was used: {args}")

  monkeypatch.setattr(socket.socket, "connect", refuse)
  monkeypatch.setattr(socket, "getaddrinfo", refuse)
  monkeypatch.setattr(subprocess, "run", refuse)


@pytest.fixture
def hub(monkeypatch):
  """tensorflow_hub with one resolver: `served` maps a handle to a list of functions, one for each call."""
  from tensorflow_hub import registry

  class Resolver:
    def __init__(self):
      self.served, self.calls = {}, []

    def is_supported(self, handle):
      return True

    def __call__(self, handle):
      self.calls.append(handle)
      directory = pathlib.Path(os.environ["TFHUB_CACHE_DIR"], hashlib.sha1(handle.encode()).hexdigest())
      self.served[handle].pop(0)(directory)
      return str(directory)

  resolver = Resolver()
  monkeypatch.setattr(registry.resolver, "_impls", [resolver])
  monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
  return resolver
