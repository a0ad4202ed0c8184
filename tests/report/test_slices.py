"""Slices: what divides examples, what is found, what is not, and the measures of fairness."""

import dataclasses

import numpy as np
import PIL.Image
import pytest
import scipy.stats

from tl_app.data.examples import Examples, Inputs, strings
from tl_app.data.splitting.image_index import DecodedImageIndex
from tl_app.report import slices
from tl_app.report.slices import columns, fairness, measure, tree
from tl_app.report.slices import report as report_lib
from tl_app.tasks import REGRESSION, SINGLE_LABEL, statistics
from tl_app.tasks.single_label import IMBALANCED

CLASSES = ("ham", "news", "spam")


def answered(rng, n, accuracy=0.9, wrong=None, names=CLASSES):
  """Returns n rows of predictions_test.csv; the answers where `wrong`, bool [n], holds are wrong."""
  labels = rng.integers(0, len(names), n)
  hit = rng.random(n) < accuracy
  answers = np.where(hit if wrong is None else hit & ~wrong, labels, (labels + 1) % len(names))
  return [
    {"label": names[label], "prediction": names[answer], "score": "0.9"} for label, answer in zip(labels, answers)
  ]


def compared(divisions, rows, task=SINGLE_LABEL):
  task = task.fit(CLASSES)
  return measure.compare(divisions, task.metrics, task.metrics.sufficient_statistics(rows))


@pytest.mark.parametrize("task", [SINGLE_LABEL, IMBALANCED], ids=["accuracy", "macro_f1"])
def test_a_planted_subgroup_is_found_among_50_slices(task):
  rng = np.random.default_rng(0)
  regions = rng.integers(0, 47, 3000)
  # Half of the labels of one region are wrong: of 50 slices it alone is worse.
  planted = (regions == 7) & (rng.random(3000) < 0.5)
  divisions = [
    columns.divide("region", [f"r{i}" for i in regions]),
    columns.divide("sex", rng.choice(["f", "m", "x"], 3000)),
  ]
  found = compared(divisions, answered(rng, 3000, wrong=planted), task)
  assert len(found) == 50 and all(row["ranked"] for row in found)
  assert [(row["column"], row["value"]) for row in found if row["worse"] or row["better"]] == [("region", "r7")]
  worst = found[0]
  low, high = worst["difference_ci95"]
  assert worst["value"] == "r7" and low < worst["difference"] < high < 0 and worst["corrected_p_value"] < 0.001


@pytest.mark.parametrize(("task", "runs"), [(SINGLE_LABEL, 8), (IMBALANCED, 2)], ids=["accuracy", "macro_f1"])
def test_random_slices_give_no_alarm(task, runs):
  alarms, uncorrected = 0, 0
  for seed in range(runs):
    rng = np.random.default_rng(seed)
    divisions = [columns.divide(f"c{i}", rng.choice(["a", "b"], 400)) for i in range(20)]
    found = compared(divisions, answered(rng, 400, 0.8), task)
    alarms += any(row["worse"] or row["better"] for row in found)
    uncorrected += any(row["p_value"] < 0.05 for row in found)
  # One run in twenty may give an alarm; without the correction most do.
  assert alarms <= 1 and uncorrected > runs / 3


def test_the_tree_finds_a_planted_slice_and_nothing_in_noise():
  rng = np.random.default_rng(0)
  length, region = rng.integers(1, 400, 2000), rng.choice(["north", "south", "west"], 2000)
  divisions = [columns.divide("characters", length), columns.divide("region", region)]
  task = SINGLE_LABEL.fit(CLASSES)
  planted = (length > 250) & (region == "south") & (rng.random(2000) < 0.5)
  mistakes = np.array([task.answers.mistake(row) for row in answered(rng, 2000, wrong=planted)])
  found = tree.found(divisions, mistakes)[0]
  assert "region is south" in found["rule"] and "characters over " in found["rule"]
  assert found["mistakes"] > 0.4 > 0.2 > found["rest"]
  # The tree divides what is one fault by its depth; the parts are joined again.
  region_alone = (region == "south") & (rng.random(2000) < 0.5)
  (joined,) = tree.found(divisions, region_alone.astype(float))
  assert joined["rule"] == "region is south" and joined["num_examples"] > 300
  assert joined["corrected_p_value"] >= joined["p_value"] < 1e-10
  noise = [tree.found(divisions, rng.permutation(mistakes), seed) for seed in range(10)]
  assert noise == [[]] * 10


def test_the_rules_of_the_tree_say_where_empty_cells_are():
  rng = np.random.default_rng(0)
  ages, empty = rng.integers(18, 80, 2000), rng.random(2000) < 0.2
  divisions = [columns.divide("age", ["" if is_empty else str(age) for is_empty, age in zip(empty, ages)])]
  rules = []
  for wrong in (empty, (ages > 60) | empty, (ages > 60) & ~empty):
    mistakes = np.where(wrong, rng.random(2000) < 0.6, rng.random(2000) < 0.05).astype(float)
    (found,) = tree.found(divisions, mistakes)
    rules.append(found["rule"])
  assert rules == ["age is empty", "age over 60.5 or empty", "age over 60.5"]


def test_small_slices_are_not_ranked():
  rng = np.random.default_rng(0)
  values = ["small"] * (measure.LEAST - 1) + ["large"] * 200
  found = compared([columns.divide("c", values)], answered(rng, len(values)))
  small, large = sorted(found, key=lambda row: row["num_examples"])
  # The large one leaves too few to compare with.
  assert not small["ranked"] and not large["ranked"] and "p_value" not in small


def test_the_numbers_of_a_slice_are_those_by_hand():
  rows = [{"label": "ham", "prediction": "ham", "score": "1"}] * 70
  rows += [{"label": "ham", "prediction": "spam", "score": "1"}] * 30
  values = ["a"] * 30 + ["b"] * 70
  found = {row["value"]: row for row in compared([columns.divide("c", values)], rows)}
  assert found["a"]["accuracy"] == 1 and found["b"]["accuracy"] == pytest.approx(40 / 70) == found["a"]["rest"]
  expected = scipy.stats.fisher_exact([[30, 0], [40, 30]]).pvalue
  # A slice and all the rest are one test, which is not corrected.
  assert found["a"]["p_value"] == found["a"]["corrected_p_value"] == pytest.approx(expected)
  assert found["b"]["corrected_p_value"] == pytest.approx(expected)
  # Newcombe 1998, method 10, of 30/30 and 40/70.
  low, high = statistics.wilson(1, 30)[0], statistics.wilson(40 / 70, 70)[1]
  assert found["a"]["difference_ci95"][0] == pytest.approx(30 / 70 - np.hypot(1 - low, high - 40 / 70))


def test_holm():
  assert measure.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
  assert measure.holm([0.01, 0.01, 0.03], [0, 0, 1]) == pytest.approx([0.02, 0.02, 0.03])
  assert measure.holm([0.5, 0.9]) == pytest.approx([1, 1])


def test_random_slices_agree_with_the_exact_test():
  rng = np.random.default_rng(1)
  task = SINGLE_LABEL.fit(CLASSES)
  sums = task.metrics.sufficient_statistics(answered(rng, 300))
  masks = [np.arange(300) < 60, sums[:, 0] * rng.random(300) < 0.1]
  exact = [measure._fisher(sums, mask) for mask in masks]
  simulated = measure._by_random_slices(masks, task.metrics, sums, 0)
  assert simulated[0] == pytest.approx(exact[0], abs=0.2)
  assert exact[1] < 1e-6 and simulated[1] < 1e-6


def test_columns_become_slices():
  numbers = columns.divide("age", [str(i) for i in range(20)])
  assert numbers.names() == ["up to 4", "4 to 9", "9 to 14", "over 14"]
  assert numbers.values[4] == "up to 4" and numbers.values[5] == "4 to 9"
  few = columns.divide("stars", list("1234512345") + [""])
  assert few.numbers is None and set(few.names()) == {"1", "2", "3", "4", "5", columns.EMPTY}
  with_empty = columns.divide("age", [*map(str, range(20)), ""])
  assert with_empty.values[-1] == columns.EMPTY and with_empty.names()[-1] == columns.EMPTY
  # More than three quarters are the largest number, as of texts that were cut at a length.
  mostly = columns.divide("characters", [*range(100, 110), *[280] * 90])
  assert mostly.names() == ["up to 109", "over 109"] and list(mostly.values).count("over 109") == 90
  many = columns.divide("user", [f"u{i}" for i in range(100)] + ["u1"] * 9)
  assert len(many.names()) == columns.MAX_VALUES + 1 and columns.OTHERS in many.names() and "u1" in many.names()


def test_what_examples_tell_by_themselves():
  texts = ["a" * i for i in range(1, 25)]
  examples = Examples(
    ids=strings([f"{'one' if i < 12 else 'two'}.csv:{i}" for i in range(24)]),
    inputs=Inputs.of("text", texts),
    labels=strings(["yes", "no"] * 12),
    hashes=strings(texts),
    splits=strings([""] * 24),
    skipped=[],
    source="table:x",
    metadata={"sex": strings(["f", "m", "m"] * 8)},
    groups=strings(["p1", "p2"] * 12),
  )
  found = {column.name: column for column in slices.of_examples(examples, None)}
  assert set(found) == {"sex", "group", "characters", "source"}
  assert found["sex"].given and found["group"].given and not found["characters"].given
  assert found["characters"].names()[0] == "up to 6" and set(found["source"].values) == {"one.csv", "two.csv"}
  # A folder for each class says nothing that the label does not.
  by_class = [f"{label}/{i}.png" for i, label in enumerate(examples.labels)]
  assert "source" not in columns.raw(dataclasses.replace(examples, ids=strings(by_class)), None)


def test_fairness_is_that_of_fairlearn():
  metrics = pytest.importorskip("fairlearn.metrics")
  rng = np.random.default_rng(0)
  for names in (("no", "yes"), CLASSES):
    task = SINGLE_LABEL.fit(names)
    rows, groups = answered(rng, 500, 0.8, names=names), rng.choice(["a", "b", "c"], 500, p=[0.6, 0.3, 0.1])
    found = fairness.measures(*task.metrics.decisions(rows), list(groups), names)
    for name in names:
      truth, answers = ([int(row[key] == name) for row in rows] for key in ("label", "prediction"))
      given = {"sensitive_features": groups}
      expected = {
        "demographic_parity_difference": metrics.demographic_parity_difference(truth, answers, **given),
        "demographic_parity_ratio": metrics.demographic_parity_ratio(truth, answers, **given),
        "equalized_odds_difference": metrics.equalized_odds_difference(truth, answers, **given),
      }
      assert found["per_class"][name] == pytest.approx(expected, abs=1e-12)
    per_class = found["per_class"].values()
    assert found["equalized_odds_difference"] == max(row["equalized_odds_difference"] for row in per_class)
    assert found["demographic_parity_ratio"] == min(row["demographic_parity_ratio"] for row in per_class)


def test_a_class_that_a_group_never_has_does_not_count():
  answers, truth = np.array([[1], [0], [1]]), np.array([[1], [1], [0]])
  found = fairness.measures(answers, truth, ["a", "a", "b"], ["c"])
  # Group b has no true example, group a no false one: neither rate can be compared.
  assert found["equalized_odds_difference"] == 0 and found["demographic_parity_difference"] == 0.5


def test_the_worst_group():
  values = ["a"] * 40 + ["b"] * 40 + ["c"] * 5
  right = np.array([1] * 40 + [1, 0] * 20 + [0] * 5)
  division = columns.divide("sex", values)
  assert slices.worst_group([division], lambda mask: right[mask].mean()) == ("sex = b", 0.5)
  assert slices.worst_group([columns.divide("few", ["a", "b"])], lambda mask: 0) is None


def test_a_report_of_regression_has_no_fairness():
  rng = np.random.default_rng(0)
  task = REGRESSION.with_codec(names=("value",)).fit(["0", "1", "2"])
  truth, sex = rng.normal(size=400), rng.choice(["f", "m"], 400)
  noise = np.where(sex == "f", 2.0, 0.1) * rng.normal(size=400)
  rows = [{"label": str(t), "prediction": str(t + e), "error": str(abs(e))} for t, e in zip(truth, noise)]
  found = report_lib.report(task, [columns.divide("sex", sex)], rows)
  worst = found["rows"][0]
  assert worst["value"] == "f" and worst["worse"] and found["fairness"] == {}
  assert found["found"][0]["rule"] == "sex is f" or "sex is not m" in found["found"][0]["rule"]
  assert found["worst_groups"]["sex"]["value"] == "f"


def test_images_tell_size_and_brightness(tmp_path):
  paths = []
  for i in range(24):
    paths.append(str(tmp_path / f"{i}.png"))
    PIL.Image.fromarray(np.full((32, 32 + i, 3), 10 * i, np.uint8)).save(paths[-1])
  examples = Examples(
    ids=strings([f"{i}.png" for i in range(24)]),
    inputs=Inputs.of("image", paths),
    labels=strings(["yes", "no"] * 12),
    hashes=strings(paths),
    splits=strings([""] * 24),
    skipped=[],
    source="images:x",
  )
  cells = columns.raw(examples, DecodedImageIndex(tmp_path))
  assert list(cells["pixels"]) == [32.0 * (32 + i) for i in range(24)]
  assert list(cells["brightness"]) == [10.0 * i for i in range(24)]
  columns.write(tmp_path / "slices.csv", examples.ids, cells)
  lines = (tmp_path / "slices.csv").read_text().splitlines()
  assert lines[:2] == ["id,pixels,brightness", "0.png,1024,0"]
  found = {column.name: column for column in slices.of_examples(examples, DecodedImageIndex(tmp_path))}
  assert found["brightness"].names() == ["up to 50", "50 to 110", "110 to 170", "over 170"]
