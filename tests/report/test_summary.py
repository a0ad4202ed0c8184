"""What the terminal shows at the end of a run."""

from tiny_metrics import confused, measure, names

from tl_app.report import summary


def test_summary_shows_the_accuracy_beside_the_baseline_and_where_things_are(tmp_path):
  (tmp_path / "report.html").write_text("")
  metrics = {
    "test": measure(*confused(2105, 2, 0.6), names(2)),
    "majority_accuracy": 0.5123,
    "seconds": {"features": 41.2, "train": 9.0, "evaluate": 1.0, "export": 8.8},
    "selected": "fine_tuned",
    "candidates": {"majority_class": {"accuracy": 0.5}, "probe": {"accuracy": 0.6}, "fine_tuned": {"accuracy": 0.7}},
    "selection_reason": "fine-tuned: 0.7 on the validation split",
    "parity": {"num_examples": 256, "label_flips": 0, "max_probability_difference": 3e-7},
  }
  lines = summary.lines(metrics, tmp_path).splitlines()
  low, high = metrics["test"]["accuracy_ci95"]
  assert f"{metrics['test']['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f}), 2,105 examples" in lines[0]
  assert "accuracy of the majority class" in lines[1] and "0.512" in lines[1]
  text = "\n".join(lines)
  assert "validation accuracy: majority class 0.500, probe 0.600, fine-tuned 0.700" in text
  assert "fine-tuned: 0.7 on the validation split" in text
  assert (
    "1 min 0 s, in seconds: features 41, train 9, evaluate 1, export 9" in text
    and "256 test examples answered by a new process, 0 labels differ" in text
    and str(tmp_path / "report.html") in text
  )
  assert "export/" not in text, "an export that is not there is not announced"
  assert len({len(line) - len(line[17:].lstrip()) for line in lines}) == 1, "the values are aligned"


def test_a_run_that_continued_has_the_seconds_of_all_its_starts():
  metrics = {"test": measure(*confused(50, 2, 0.8), names(2)), "seconds": {"train": 90.0}}
  assert "2 min 0 s, in seconds: train 90, start and the rest 30" in summary.lines(metrics, None, 120.0)
  assert "50 s, in seconds, over all starts: train 90\n" in summary.lines(metrics, None, 50.0) + "\n"


def test_the_coverage_of_prediction_sets_is_told_beside_its_aim():
  sets = {"coverage": 0.95, "measured": 0.9528, "measured_ci95": [0.9443, 0.9617], "mean_size": 1.531}
  metrics = {"test": measure(*confused(50, 2, 0.8), names(2)) | {"prediction_sets": sets}}
  told = "coverage of prediction sets 0.953 (95 % interval 0.944 to 0.962), aim 0.95, 1.53 classes on average"
  assert f"certainty         {told}" in summary.lines(metrics)


def test_classes_without_test_examples_are_counted():
  metrics = {"test": measure(*confused(50, 2, 0.8), names(2))}
  assert "without test" not in summary.lines(metrics)
  logits, labels = confused(50, 3, 0.8)
  metrics = {"test": measure(logits[labels < 2], labels[labels < 2], names(3))}
  assert "classes           without test examples: 1 of 3, macro F1 is the mean over" in summary.lines(metrics)


def test_summary_of_the_bare_contract():
  metrics = {"test": measure(*confused(50, 2, 1.0), names(2))}
  assert summary.lines(metrics).startswith("test accuracy")
  assert "None" not in summary.lines(metrics)


def test_the_reason_stands_in_place_of_an_interval_that_is_missing():
  metrics = {"test": measure(*confused(50, 2, 1.0), names(2))}
  line = next(line for line in summary.lines(metrics).splitlines() if line.startswith("macro F1"))
  assert line.endswith("1.000 (no interval: fewer than ten right or ten wrong answers)")
  metrics = {"test": measure(*confused(500, 2, 0.6), names(2))}
  assert "no interval" not in summary.lines(metrics) and "macro F1          0." in summary.lines(metrics)


def test_a_class_of_min_precision_without_test_answers_is_not_called_never_answered():
  few = {"wanted": 0.9, "threshold": 0.5, "precision": None, "recall": 0.0, "recall_without": 0.0}
  without = {"wanted": 0.9, "threshold": 0.5, "precision": 1.0, "precision_ci95": [0.7, 1.0], "recall": 0.5}
  rows = {"spam": few, "eggs": few | {"threshold": None}, "ham": without | {"recall_without": None}}
  text = summary.lines({"test": measure(*confused(50, 2, 0.8), names(2)) | {"min_precision": rows}})
  assert "no test example is answered spam" in text and "eggs is never answered" in text
  assert "ham 1.000 (95 % interval 0.700 to 1.000; wanted 0.9), recall 0.500\n" in text + "\n"
