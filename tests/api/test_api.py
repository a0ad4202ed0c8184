"""The Python functions: what they take and refuse, and what a `Run` shows of the files of its workdir."""

import base64
import inspect
import io
import logging

import pandas as pd
import PIL.Image
import pytest
from tiny_runs import write_run

import tl_app
from tl_app import config as config_lib
from tl_app import files, terminal
from tl_app.api import session
from tl_app.errors import UserError
from tl_app.report import confusions, plots


@pytest.fixture
def finished(tmp_path):
  """Returns the `Run` of a workdir as a run of three classes leaves it."""
  write_run(tmp_path / "run", ["blue", "green", "red"], num_examples=60, skill=2.0)
  (tmp_path / "run/checkpoints").mkdir()
  for name in ("model.weights.h5", "task.json"):
    (tmp_path / "run/checkpoints" / name).touch()
  return tl_app.load(tmp_path / "run")


def test_a_setting_that_cannot_work_is_the_line_of_the_command():
  flags = {"dataset": "table:nowhere.csv", "backbone": "minilm_l6.pypi", "workdir": "run"}
  for settings, line in [
    ({}, "--dataset=table:nowhere.csv: there is no file or directory nowhere.csv"),
    ({"backbone": "minilm_l7.pypi"}, "--backbone=minilm_l7.pypi is not known; did you mean minilm_l6.pypi?"),
    ({"workdir": ""}, "--workdir is needed: Directory of the run, "),
    ({"learning_rate": -1}, "--learning_rate=-1.0 is below 0.0"),
    ({"max_length": 2}, "--max_length=2 leaves no token between the first and the last: use 3 or more"),
    ({"max_windows": 4}, "--max_windows=4 does nothing without --long_text=windows: remove the flag"),
    ({"head": "svm"}, "--head is now named --probe_solver: use --probe_solver=svm"),
    ({"epoch": 3}, "tl_app.fit has an unknown field 'epoch'; did you mean epochs?"),
    ({"dataset": {"text": ["a"]}}, "--dataset={'text': ['a']} is not of type str"),
    ({"dataset": pd.DataFrame({"text": ["a"]})}, "the dataset is a table in memory: write it to a file, as with frame"),
  ]:
    with pytest.raises(tl_app.UserError) as error:
      tl_app.fit(**flags | settings)
    assert str(error.value).startswith(line)
  with pytest.raises(tl_app.UserError, match="--dataset is needed"):
    tl_app.find_faults(backbone="minilm_l6.pypi")
  with pytest.raises(tl_app.UserError, match="--workdir=nowhere holds no finished run"):
    tl_app.load("nowhere")


def test_the_signature_lists_every_setting_with_its_default():
  for function in (tl_app.fit, tl_app.find_faults):
    parameters = inspect.signature(function).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
      name: field.default for name, field in config_lib.FIELDS.items()
    }


def test_the_table_of_backbones_is_that_of_inspect():
  table = tl_app.backbones()
  assert list(table.name) == [row["name"] for row in tl_app.backbones.table()]
  assert table.set_index("name").modality["minilm_l6.pypi"] == "text"


def test_a_run_shows_its_summary_and_its_metrics(finished):
  test = files.read_json(finished.workdir / "metrics.json")["test"]
  assert finished.metrics["test"] == test
  assert repr(finished).startswith(f"test accuracy     {test['accuracy']:.3f} (95 % interval ")
  assert f'<td style="text-align:left;white-space:normal">{test["accuracy"]:.3f} (95' in finished._repr_html_()
  assert "majority class" in finished.metrics._repr_html_() and "report.html" not in finished.metrics._repr_html_()


def test_errors_are_the_wrong_predictions_the_worst_first(finished):
  errors, test = finished.errors(), finished.metrics["test"]
  assert list(errors)[:4] == ["id", "label", "prediction", "score"]
  assert len(errors) == round((1 - test["accuracy"]) * 60) > 3 and (errors.label != errors.prediction).all()
  assert errors.score.is_monotonic_decreasing and errors.score.between(1 / 3, 1).all()


def test_plots_show_what_the_files_hold(finished):
  matrix = finished.plot_confusion_matrix()
  names, counts = confusions.matrix(finished.metrics["test"])
  assert [label.get_text() for label in matrix.axes[0].get_yticklabels()] == names == ["blue", "green", "red"]
  assert [int(text.get_text()) for text in matrix.axes[0].texts] == counts[counts > 0].tolist()
  curves = finished.plot_training()
  assert [axes.get_title(loc="left") for axes in curves.axes[::2]] == ["probe: loss", "full: loss"]
  assert list(curves.axes[0].lines[1].get_ydata()) == [1.1, 0.55]
  # A notebook shows the figure without pyplot.
  assert PIL.Image.open(io.BytesIO(curves._repr_png_())).size[0] > 500
  with pytest.raises(tl_app.UserError, match="where these are numbers"):
    finished.plot_predictions()
  rows = [{"label": str(i), "prediction": str(i + 1)} for i in range(3)]
  assert plots.scatter_figure(rows).axes[0].collections[0].get_offsets().tolist() == [[0, 1], [1, 2], [2, 3]]


def test_of_many_classes_those_with_the_most_wrong_answers_are_shown():
  count = 2 * confusions.MAX_MATRIX_CLASSES
  cells = [[i, i, 5] for i in range(count)] + [[i, i + 1, i] for i in range(1, count - 1)]
  test = {"per_class": dict.fromkeys(map(str, range(count))), "confusion_cells": cells}
  names, counts = confusions.readable_matrix(test)
  assert names == [str(i) for i in range(count // 2, count)]
  assert counts[0].tolist()[:3] == [5, count // 2, 0] and counts.trace() == 5 * count // 2
  figure = plots.confusion_figure(test)
  assert figure.axes[0].get_title() == f"the {count // 2} of {count} classes with the most wrong answers"
  assert not figure.axes[0].texts


def test_pictures_have_a_title_each(tmp_path):
  buffer = io.BytesIO()
  PIL.Image.new("RGB", (4, 4), "red").save(buffer, "jpeg")
  uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
  figure = plots.pictures_figure([uri] * 6, [f"title {i}" for i in range(6)])
  assert [axes.get_title() for axes in figure.axes if axes.images] == [f"title {i}" for i in range(6)]


def test_evaluate_takes_data_settings_only(finished):
  with pytest.raises(tl_app.UserError, match="run.evaluate takes no 'epochs', but dataset, data_dir, "):
    finished.evaluate(epochs=3)
  with pytest.raises(tl_app.UserError, match="there is no file or directory nowhere.csv"):
    finished.evaluate(dataset="table:nowhere.csv")


def test_log_lines_are_shown_unless_the_program_shows_them_itself(capsys, caplog, monkeypatch):
  log = logging.getLogger("tl_app.anything")
  with session.running():
    log.info("shown")
  assert capsys.readouterr() == ("", "shown\n")
  log.info("after the call")
  with caplog.at_level(logging.INFO), session.running():
    log.info("to the program")
  assert "to the program" in caplog.text and capsys.readouterr() == ("", "")
  monkeypatch.setattr(terminal, "in_notebook", lambda: True)
  with session.running():
    log.info("in a notebook")
    print("a result")
  assert capsys.readouterr() == ("in a notebook\na result\n", "")


def test_a_full_disk_is_the_line_of_the_command():
  with pytest.raises(tl_app.UserError, match="^no space is left on the disk for /disk/x: "), session.running():
    raise OSError(28, "No space left on device", "/disk/x")
  with pytest.raises(ZeroDivisionError), session.running():
    raise ZeroDivisionError


def test_inputs_are_a_list_and_no_table(finished):
  import pandas as pd

  for table in (pd.DataFrame({"text": ["x"]}), {"text": ["x"]}):
    with pytest.raises(UserError, match=r"a table, not a list: give one of its columns, as in frame\['text'\]"):
      session.inputs(table)
  for one in (None, 3, b"x"):
    with pytest.raises(UserError, match="not a list: give a list, or the path of a file"):
      session.inputs(one)
  assert session.inputs(pd.Series(["x", "y"])) == ["x", "y"]
  with pytest.raises(UserError, match="run.predict takes no batch_size=0: use 1 or more"):
    finished.predict(["x"], batch_size=0)
