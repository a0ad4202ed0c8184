"""The few lines that end a training or an evaluation."""

import pathlib

from tl_app import tasks


def lines(metrics, workdir=None):
  """Returns the few aligned lines that end a training.

  Args:
    metrics: the content of metrics.json. What it lacks is left out.
    workdir: directory of the run; adds the lines that say where the report, the metrics and the export are.
  """
  task, test, parity = tasks.of_metrics(metrics), metrics.get("test", {}), metrics.get("parity")
  score = task.metrics.primary_title
  rows = [
    (f"test {score}", _with_interval(test, task.metrics.primary_metric), f"{test.get('num_examples', 0):,} examples"),
    ("baseline", _figure(task.metrics.baseline_score(metrics)), f"{score} of {task.metrics.baseline_title}"),
    *((title, _with_interval(test, key), "") for key, title in task.metrics.secondary_titles.items()),
    ("validation", _with_interval(metrics.get("validation") or {}, task.metrics.primary_metric), score),
    ("text", _read(metrics.get("preprocessing") or {}), ""),
    ("rungs", _rungs(metrics.get("rungs"), task), ""),
    ("model", metrics.get("rung_reason") or metrics.get("rung"), ""),
    ("export check", task.answers.describe_parity(parity) if parity else "", ""),
    ("time", *_seconds(metrics.get("seconds"))),
  ]
  if workdir is not None:
    places = [("report", "report.html"), ("metrics", "metrics.json"), ("saved model", "export")]
    paths = [(name, pathlib.Path(workdir) / file) for name, file in places]
    rows += [(name, str(path), "") for name, path in paths if path.exists()]
  return "\n".join(f"{name:<15} {', '.join(filter(None, (value, more)))}" for name, value, more in rows if value)


def _figure(value):
  return "" if value is None else f"{value:.3f}"


def _with_interval(values, name):
  text, interval = _figure(values.get(name)), values.get(f"{name}_ci95")
  return f"{text} (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if text and interval else text


def _read(texts):
  share = texts.get("tokens_read", 1.0)
  how = f"--long_text={texts.get('long_text')} --max_length={texts.get('max_length')}"
  # What is shown as 100.0 % needs no line.
  return f"{share:.1%} of the tokens are read with {how}" if share < 0.9995 else ""


def _rungs(rungs, task):
  text = ", ".join(
    f"{name} {_figure(values.get(task.metrics.primary_metric))}" for name, values in (rungs or {}).items()
  )
  return text and f"validation {task.metrics.primary_title}: {text}"


def _seconds(seconds):
  parts = {name: value for name, value in (seconds or {}).items() if isinstance(value, (int, float)) and value}
  text = ", ".join(f"{name} {value:.0f}" for name, value in parts.items())
  return (f"{sum(parts.values()):.0f} s", text) if parts else ("", "")
