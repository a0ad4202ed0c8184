"""Which devices a run uses."""

import pytest
import tensorflow as tf

from tl_app.compute import devices
from tl_app.errors import UserError


def test_a_hidden_gpu_is_not_counted(monkeypatch):
  physical = tf.config.list_physical_devices
  monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"] if kind == "GPU" else physical(kind))
  used = devices.make("mirrored", 2).strategy.extended.worker_devices
  assert [name.rpartition("/")[2] for name in used] == ["device:CPU:0", "device:CPU:1"]
  monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"])
  with pytest.raises(UserError, match=r"--num_devices=2, but this machine has 1 GPU\(s\)"):
    devices.make("mirrored", 2)
