"""`explain` on finished runs, as a user and as a notebook call it."""

import json

import pytest
import tiny_data
import tiny_modules

import tl_app
from tl_app.commands import explain, train
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.report import page, predictions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Returns a directory with a run on images, whose network gives a map, and photos."""
  root = tmp_path_factory.mktemp("explain")
  tiny_data.colours(root / "colours", per_class=12)
  config = Config(
    backbone=tiny_modules.image_map(root / "map"),
    dataset=f"images:{root}/colours",
    cache_dir=str(root / "cache"),
    recipe="probe",
    head_epochs=3,
    image_size=16,
    export=False,
    offline=True,
  )
  train.train_and_evaluate(config, root / "run")
  photos = root / "photos"
  photos.mkdir()
  for name in ("blue", "red"):
    (photos / f"{name}.png").write_bytes((root / f"colours/{name}/000.png").read_bytes())
  (photos / "empty.png").write_bytes(b"")
  return root


def test_images_of_a_directory(world):
  options = explain.Options(similar=2)
  written = explain.explain(world / "run", f"{world}/photos", f"{world}/out", options)
  content = json.loads((world / "out/explanations.json").read_text())
  assert content.pop("format") == 1 and content == written.result
  blue, empty, red = content["groups"][0]["entries"]
  assert empty == {"id": "empty.png", "error": "it is empty"}
  for entry, name in ((blue, "blue"), (red, "red")):
    (found,) = entry["explanations"]
    assert found["method"] == "grad_cam" and len(found["heat"]) == 28 and entry["image"].startswith("data:image/jpeg")
    assert len(entry["similar"]) == 2 and all(near["image"] for near in entry["similar"])
    # The photo itself is among the training examples, or others of its colour are near.
    assert entry["similar"][0]["label"] == name and entry["similar"][0]["similarity"] > 0.9
  assert written.page == world / "out/explanations.html" and "it is empty" in written.page.read_text()


def test_the_report_shows_errors_unsure_and_typical_examples(world):
  written = explain.explain_test(world / "run", 1, explain.Options(similar=0))
  groups = {group["title"]: group["entries"] for group in written.result["groups"]}
  rows = {row["id"]: row for row in predictions.read(world / "run/predictions_test.csv")}
  (unsure,) = groups["Least sure"]
  assert float(rows[unsure["id"]]["score"]) == min(float(row["score"]) for row in rows.values())
  for entry in groups["Typical examples"]:
    assert entry["label"] == entry["prediction"] == rows[entry["id"]]["label"]
  assert all(entry["label"] != entry["prediction"] for entry in groups.get("Worst errors", []))
  assert 'id="explanations"' in (world / "run/report.html").read_text()
  # A later report keeps them.
  page.write(world / "run")
  assert 'id="explanations"' in (world / "run/report.html").read_text()


def test_from_python(world):
  run = tl_app.load(world / "run")
  found = run.explain([world / "photos/red.png"], method="occlusion", classes=["blue", "red"], similar=0)
  assert [each["name"] for each in found[0]["explanations"]] == ["blue", "red"]
  assert found.path == world / "run/explanations/explanations.html" and "<iframe" in found._repr_html_()
  with pytest.raises(UserError, match="run.explain takes no method 'lime', but auto, grad_cam"):
    run.explain([world / "photos/red.png"], method="lime")
  with pytest.raises(UserError, match="--class=pink is unknown; the model knows: blue, green, red"):
    run.explain([world / "photos/red.png"], classes=["pink"])


def test_without_the_training_data_there_are_no_similar_examples(world, caplog):
  (world / "colours").rename(world / "away")
  try:
    with caplog.at_level("INFO"):
      written = explain.explain(world / "run", f"{world}/photos/red.png", f"{world}/out2")
  finally:
    (world / "away").rename(world / "colours")
  (entry,) = written.result["groups"][0]["entries"]
  assert "similar" not in entry and entry["explanations"]
  assert any("no similar training examples: " in line for line in caplog.messages)


def test_only_the_first_inputs_are_explained(world, caplog):
  with caplog.at_level("INFO"):
    written = explain.explain(
      world / "run", f"{world}/photos", f"{world}/out3", explain.Options(similar=0, max_inputs=1)
    )
  assert len(written.result["groups"][0]["entries"]) == 1
  assert "--max_inputs=1: further inputs are not explained" in caplog.messages
