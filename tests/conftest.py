"""Fixtures shared by the suite. TensorFlow starts with two logical CPU devices, which stand in for two GPUs."""

import gc
import os
import pathlib
import subprocess
import sys
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def two_cpu_devices():
  """Logical devices must be chosen before TensorFlow initialises."""
  import tensorflow as tf

  tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
  )
  # The collector need not look at the modules again and again.
  gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def fast_export_checks():
  """Runs make their export checks in processes that have TensorFlow already, see `warm_process`."""
  import warm_process

  # A module that a test imports later starts real processes.
  if parity := sys.modules.get("tl_app.serving.parity"):
    parity.subprocess = types.SimpleNamespace(Popen=warm_process.Popen, PIPE=subprocess.PIPE)


@pytest.fixture
def shared():
  """Returns a function, relative path -> path in ../shared; the test skips by name where it is absent."""

  def find(relative):
    path = SHARED / relative
    if not path.exists():
      pytest.skip(f"../shared/{relative} is absent")
    return path

  return find
