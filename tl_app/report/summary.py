"""What the terminal shows at the end of a training or an evaluation."""

import pathlib
from collections.abc import Mapping

from tl_app import tasks
from tl_app.errors.counts import number_of
from tl_app.report import formatting, slices_text
from tl_app.tasks import statistics
from tl_app.tasks.metrics import Metrics
from tl_app.workdir import Workdir

# Column in which the values begin.
INDENT = 18


def lines(metrics: Mapping, workdir: str | pathlib.Path | None = None, seconds: float = 0.0) -> str:
  """Returns the few aligned lines that end a training or an evaluation; the arguments are those of `rows`."""
  return "\n".join(f"{name:<{INDENT - 1}} {text}" for name, text in rows(metrics, workdir, seconds))


def rows(metrics: Mapping, workdir: str | pathlib.Path | None = None, seconds: float = 0.0) -> list[tuple[str, str]]:
  """Returns the summary of a training or an evaluation as (name, text) pairs.

  Args:
    metrics: the content of metrics.json. A value that is missing gives no row.
    workdir: directory of the run; adds the paths of the report, the metrics and the export.
    seconds: the time of the whole command; 0 for the sum of the parts that metrics.json has.
  """
  task, test, parity = tasks.of_metrics(metrics), metrics.get("test", {}), metrics.get("parity")
  primary, title = task.metrics.primary_metric, task.metrics.primary_title

  def measured(values, name):
    return formatting.with_interval(values, name, task.metrics.no_interval)

  found = [
    (f"test {title}", measured(test, primary), number_of(test.get("num_examples", 0), "example")),
    ("baseline", _decimals(task.metrics.baseline_score(metrics)), f"{title} of {task.metrics.baseline_title}"),
    *((name, measured(test, key), "") for key, name in task.metrics.secondary_titles.items()),
    ("classes", _without_examples(test, task), statistics.MACRO_F1_NOTE if "macro_f1" in test else ""),
    ("validation", measured(metrics.get("validation") or {}, primary), _estimate(metrics, title)),
    ("calibration", _calibration(test.get("calibration")), ""),
    ("certainty", _certainty(test), ""),
    ("accepted", _accepted(test.get("selective")), ""),
    ("costs", _costs(test.get("costs")), ""),
    *(("precision", _precision(name, values), "") for name, values in test.get("min_precision", {}).items()),
    ("other data", _other_data(metrics.get("ood")), ""),
    ("slices", slices_text.summary(test, task.metrics), ""),
    ("text", _tokens_read(metrics.get("preprocessing") or {}), ""),
    ("candidates", _candidates(metrics, task), ""),
    ("selected model", _selected(metrics), ""),
    ("export check", task.answers.describe_shared_parity(parity) if parity else "", ""),
    ("time", *_seconds(metrics.get("seconds") or {}, seconds)),
  ]
  if workdir is not None:
    paths = Workdir(pathlib.Path(workdir))
    written = [("report", paths.report), ("metrics", paths.metrics), ("saved model", paths.export)]
    found += [(name, str(path), "") for name, path in written if path.exists()]
  return [(name, ", ".join(filter(None, (value, more)))) for name, value, more in found if value]


def pretraining_lines(metrics: Mapping, workdir: str | pathlib.Path, seconds: float = 0.0) -> str:
  """Returns the few aligned lines that end a pretraining.

  Args:
    metrics: the content of metrics.json.
    workdir: directory of the run.
    seconds: of the whole command; 0 if they are not known.
  """
  paths = Workdir(pathlib.Path(workdir))
  rows = [
    *pretraining_rows(metrics),
    ("time", ", ".join(filter(None, _seconds(metrics.get("seconds") or {}, seconds)))),
  ]
  rows += [("report", paths.report), ("metrics", paths.metrics), ("backbone", paths.backbone)]
  return "\n".join(f"{name:<19} {text}" for name, text in rows if text)


def pretraining_rows(metrics: Mapping) -> list[tuple[str, str]]:
  """Returns (name, text) of what a pretraining has reached: the held-out metrics, the probe, the weights kept.

  Args:
    metrics: the content of metrics.json.
  """
  rows = [
    [f"held-out {title}", f"{metrics['before'][name]:.4f} before, {metrics['after'][name]:.4f} after"]
    for name, title in metrics["metric_titles"].items()
  ]
  rows[0][1] += f", {number_of(metrics['num_held_out'], 'example')}"
  probe = metrics.get("probe")
  if probe:
    name = probe["primary_metric"]
    before, after = (formatting.with_interval(probe[when], name, Metrics.no_interval) for when in ("before", "after"))
    p_value = f"p = {probe['p_value']:.3g} ({probe['test']})"
    rows.append([f"probe {name}", f"{before} before, {after} after, {p_value}"])
  kept = f"the weights after {metrics['selected']}" if metrics["improved"] else "the start: no epoch was better"
  return [(name, text) for name, text in [*rows, ["kept", kept]]]


def _estimate(metrics, title):
  count = (metrics.get("validation") or {}).get("folds")
  return f"{title} of cross-validation over {number_of(count, 'fold')}" if count else title


def _decimals(value):
  return "" if value is None else formatting.decimals(value)


def _without_examples(test, task):
  absent, number = statistics.classes_without_examples(test), len(test.get("per_class", {}))
  return f"without test {task.metrics.support_title}: {len(absent):,} of {number:,}" if absent else ""


def _tokens_read(preprocessing):
  share = preprocessing.get("tokens_read", 1.0)
  how = f"--long_text={preprocessing.get('long_text')} --max_length={preprocessing.get('max_length')}"
  # What is shown as 100.0 % needs no line.
  return f"{share:.1%} of the tokens are read with {how}" if share < 0.9995 else ""


def _calibration(found):
  """Returns the calibration error of the answers before and after, and what it would be without any."""
  if not found:
    return ""
  return (
    f"expected calibration error {found['ece']:.3f}, {found['uncalibrated']['ece']:.3f} before calibration "
    f"({found['ece_if_calibrated']:.3f} for exact probabilities)"
  )


def _certainty(test):
  """Returns how often prediction sets or intervals hold the truth."""
  sets, intervals = test.get("prediction_sets"), test.get("intervals")
  if sets:
    return (
      f"coverage of prediction sets {sets['measured']:.3f} (95 % interval "
      f"{formatting.interval(sets['measured_ci95'])}), aim {sets['coverage']:g}, "
      f"{sets['mean_size']:.2f} classes on average"
    )
  if not intervals:
    return ""
  held = ", ".join(
    f"{name} +/- {values['half_width']:.3g}: {values['measured']:.1%}"
    for name, values in intervals["per_target"].items()
  )
  return f"share of labels in their interval, aim {intervals['coverage']:g}: {held}"


def _accepted(found):
  """Returns how many answers are accepted, and how often these are wrong."""
  if not found:
    return ""
  accepted = f"{found['accepted']:.1%} of the answers, by {found['by'].replace('_', ' ')}"
  if not found["accepted"]:
    return f"{accepted}: the validation split cannot show so small an error"
  if "error" not in found:
    return accepted
  interval = formatting.interval(found["error_ci95"])
  return (
    f"{accepted}; {found['error']:.3f} of them are wrong (95 % interval {interval}), {found['error_of_all']:.3f} of all"
  )


def _costs(found):
  """Returns what an answer costs, and what it would cost if it were the most probable class."""
  if not found:
    return ""
  low, high = found["difference_ci95"]
  return (
    f"{found['mean']:.4g} per answer, {found['most_probable']:.4g} with the most probable class (95 % interval of the "
    f"difference {low:.3g} to {high:.3g})"
  )


def _precision(name, found):
  """Returns how a class of --min_precision is answered."""
  if found["threshold"] is not None and found["precision"] is None:
    return f"no test example is answered {name} (wanted {found['wanted']:g})"
  if found["precision"] is None:
    return f"{name} is never answered: the validation split cannot show a precision of {found['wanted']:g}"
  interval = formatting.interval(found["precision_ci95"])
  without = found["recall_without"]
  return (
    f"{name} {found['precision']:.3f} (95 % interval {interval}; wanted {found['wanted']:g}), recall "
    f"{found['recall']:.3f}{'' if without is None else f', {without:.3f} without its threshold'}"
  )


def _other_data(found):
  """Returns how well the examples of --ood_dataset are found."""
  if not found:
    return ""
  told = ", ".join(
    f"{found[name]['recall']:.3f} (AUROC {found[name]['auroc']:.3f}) by {name.replace('_', ' ')}"
    for name in ("ood_score", "probability")
    if name in found
  )
  return f"share found of {number_of(found['num_examples'], 'example')} where 95 % of validation are accepted: {told}"


def _candidates(metrics, task):
  text = ", ".join(
    f"{formatting.candidate(name)} {_decimals(values.get(task.metrics.primary_metric))}"
    for name, values in (metrics.get("candidates") or {}).items()
  )
  how = "cross-validated" if (metrics.get("compared") or {}).get("folds") else "validation"
  return text and f"{how} {task.metrics.primary_title}: {text}"


def _selected(metrics):
  return metrics.get("selection_reason") or formatting.candidate(metrics.get("selected", ""))


def _seconds(seconds, total):
  known = {name: value for name, value in seconds.items() if isinstance(value, (int, float)) and value}
  if not known:
    return "", ""
  rest = total - sum(known.values()) if total else 0
  # A run that continued knows the seconds of all its starts, and `total` is that of the last one.
  continued = ", over all starts" if rest < 0 else ""
  shown = known | ({"start and the rest": rest} if rest > 0 else {})
  parts = ", ".join(f"{name} {value:.0f}" for name, value in shown.items())
  return formatting.duration(round(total or sum(known.values()))), f"in seconds{continued}: {parts}"
