"""What `evaluate` says about the examples that it is given."""

import logging
import types

import numpy as np

from tl_app import files
from tl_app.commands import evaluate
from tl_app.data.splitting import splits
from tl_app.workdir import Workdir


def test_examples_from_which_the_model_has_learnt_are_counted(tmp_path, caplog):
  """400 messages, of which the run has trained on 320, were answered 0.995 right, without a word about it."""
  parts = {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}
  files.write_json(tmp_path / "splits.json", {"splits": {name: {"hashes": of} for name, of in parts.items()}})
  paths = Workdir(tmp_path)
  assert splits.hashes(paths.splits) == set("abcd") and splits.hashes(paths.splits, ("test",)) == {"d"}

  def warned(hashes):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
      examples = types.SimpleNamespace(hashes=np.array(hashes, object))
      evaluate._warn_of_known(examples, paths)
    return caplog.messages

  assert warned(["d", "e"]) == []
  (line,) = warned(["a", "c", "d", "e"])
  assert line.startswith("2 of 4 examples of --dataset are in the training or validation split of the run: on new data")
