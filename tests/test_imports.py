"""Imports go one way: a module imports only lower levels. The table below is the house's floor plan."""

import ast
import pathlib
import subprocess
import sys

import pytest

import tl_app

PACKAGE = pathlib.Path(tl_app.__file__).parent

LEVELS = [
  ["errors", "compute.time_budget", "compute.memory"],
  ["config", "files", "serving.fresh_process", "progress", "data.splitting.duplicates", "data.splitting.image_index"],
  [
    "assets",
    "workdir",
    "tasks.statistics",
    "recipes.recipes",
    "preprocessing.image",
    "preprocessing.text",
    "data.examples",
    "tasks.cells",
    "tasks.tags",
    "tasks.solvers",
  ],
  ["tasks.task", "tasks.losses", "preprocessing.long_text", "preprocessing.word_pieces"],
  ["tasks.single_label", "tasks.multi_label", "tasks.regression"],
  ["tasks.token_classification"],
  ["tasks"],
  ["report.summary"],
  [
    "report.page",
    "augmentation.images",
    "augmentation.texts",
    "data.pipeline",
    "backbones.spec",
    "backbones.torch_weights",
    "backbones.stages_by_name",
    "backbones.variable_usage",
    "backbones.text_pairs",
    "backbones.long_text",
    "backbones.token_features",
  ],
  ["augmentation.mixing"],
  ["augmentation", "augmentation.copies"],
  [
    "data.splitting.sampling",
    "data.readers.starters",
    "data.readers.rows",
    "backbones.backbone",
    "backbones.bert",
    "backbones.efficientnet_lite",
    "backbones.saved_model_signature",
  ],
  ["data.readers.conll", "features.rows"],
  ["data.readers.verify", "data.readers.folders", "data.readers.tfrecord", "data.readers.tables", "data.readers.tfds"],
  ["data.splitting.fingerprints"],
  ["data.splitting.splits"],
  ["data.readers.sources", "data.readers.unlabelled", "backbones.native", "backbones.saved_model"],
  ["data", "backbones", "checking.findings"],
  ["checking.contents", "checking.labels", "checking.images", "checking.texts", "checking.noise"],
  ["checking.summary"],
  [
    "model.heads",
    "training.contrastive",
    "training.optimizers",
    "compute.devices",
    "features.disk_cache",
    "training.callbacks",
    "training.selection",
    "commands.inspect_backbone",
    "commands.compare_statistics",
  ],
  ["compute.precision", "features.inference_engine", "training.train_steps"],
  ["model.model", "commands.compare"],
  ["model.stages", "serving.saved_model", "features.session"],
  ["commands.finished_run", "commands.predict"],
  ["training.planning", "features.trunk", "commands.inspect_run", "training.input_profile", "training.image_size"],
  ["training.fit"],
  ["training.batch_size"],
  ["commands.train", "commands.check"],
  ["commands.benchmark", "commands.find_lr"],
  ["cli"],
  ["train", "evaluate", "predict", "export", "inspect", "compare", "benchmark", "check", "find_lr"],
]
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
MODULES = {
  ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
  for path in PACKAGE.rglob("*.py")
  if path != PACKAGE / "__init__.py" and path.read_text().strip()
}
WITHOUT_TENSORFLOW = [
  "config",
  "files",
  "assets",
  "recipes.recipes",
  "workdir",
  "backbones",
  "cli",
  "commands.inspect_backbone",
  "tasks.statistics",
]
WITHOUT_TENSORFLOW += ["commands.compare"]


def _imported(path):
  """Yields the names below tl_app that a file imports, at any depth, lazily or not."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name.removeprefix("tl_app.") for alias in node.names if alias.name.startswith("tl_app."))
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tl_app":
      base = node.module.removeprefix("tl_app").lstrip(".")
      for alias in node.names:
        name = f"{base}.{alias.name}".lstrip(".")
        yield name if name in MODULES else base


def test_every_module_has_a_level():
  assert sorted(MODULES) == sorted(LEVEL_OF)


@pytest.mark.parametrize("name", sorted(LEVEL_OF))
def test_imports_only_lower_levels(name):
  # A package's front door opens inwards: its lazy imports of its own rooms are lower by the table.
  upwards = [other for other in _imported(MODULES[name]) if LEVEL_OF[other] >= LEVEL_OF[name]]
  assert upwards == []


def test_flags_are_known_only_at_the_top():
  users = [name for name, path in MODULES.items() if "absl" in path.read_text() and LEVEL_OF[name] < LEVEL_OF["cli"]]
  assert users == []


def test_entry_points_are_thin():
  for name in LEVELS[-1]:
    assert len(MODULES[name].read_text().splitlines()) < 70, name


def test_these_modules_do_not_import_tensorflow():
  imports = "; ".join(f"import tl_app.{name}" for name in WITHOUT_TENSORFLOW)
  code = f"import sys; {imports}; sys.exit(' '.join({{'tensorflow', 'keras'}} & set(sys.modules)) or 0)"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr


def test_the_public_names_need_no_tensorflow_until_they_are_used():
  assert tl_app.__all__ == ["Config", "train_and_evaluate"]
  code = "import sys, tl_app; tl_app.Config(); print({'tensorflow', 'keras'} & set(sys.modules))"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
  assert tl_app.train_and_evaluate.__module__ == "tl_app.commands.train"
  with pytest.raises(AttributeError, match="no attribute 'fit'"):
    tl_app.fit  # noqa: B018
