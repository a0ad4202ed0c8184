"""Opens reports in Chromium: screenshots, accessibility by axe, size, and the time until the page is shown.

npm install axe-core && pip install playwright
python -m tests.benchmarks.report_in_browser --axe=node_modules/axe-core/axe.min.js --output=screens runs/*/report.html
python -m tests.benchmarks.report_in_browser --synthetic=10000
"""

import argparse
import io
import pathlib
import sys
import tempfile

import numpy as np
import PIL.Image
from playwright import sync_api

from tests import tiny_runs
from tl_app.data.examples import Examples, Inputs, strings
from tl_app.report import page as page_lib

WIDTHS = {"wide": 1200, "phone": 400}
SCHEMES = ("light", "dark")
# Boxes that scroll sideways without fading where they go on.
UNMARKED = """[...document.querySelectorAll('.scroll')].filter(box => box.checkVisibility()
  && box.scrollWidth > box.clientWidth && getComputedStyle(box).getPropertyValue('--after') === '0px')
  .map(box => box.getAttribute('aria-label'))"""
# Findings of axe that fail the command.
BAD = ("serious", "critical")
LIMIT_MB, LIMIT_SECONDS = 5, 1.0


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("reports", nargs="*", type=pathlib.Path)
  parser.add_argument("--synthetic", type=int, default=0, help="test examples of two runs that are made up")
  parser.add_argument("--axe", type=pathlib.Path, help="axe.min.js of the npm package axe-core")
  parser.add_argument("--output", type=pathlib.Path, help="directory of the screenshots")
  parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser")
  parser.add_argument("--whole", action="store_true", help="screenshots of the whole page, not of the first screen")
  options = parser.parse_args()
  problems = []
  with tempfile.TemporaryDirectory() as scratch, sync_api.sync_playwright() as playwright:
    if options.synthetic:
      options.reports += [
        _synthetic(pathlib.Path(scratch) / kind, options.synthetic, kind) for kind in ("text", "image")
      ]
    browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
    for report in options.reports:
      problems += _look(browser, report.resolve(), options)
    browser.close()
  print("\n".join(problems) or "no problems")
  sys.exit(bool(problems))


def _synthetic(root, number, kind):
  """Writes the report of a run with `number` test examples of 40 classes, nearly all confused, and returns its path.

  The images are noise, which compresses worst.
  """
  root.mkdir()
  names = [f"class {index:02}" for index in range(40)]
  tiny_runs.write_run(root, names, num_examples=number, skill=1.0)
  rng, inputs = np.random.default_rng(0), []
  if kind == "text":
    inputs = [f"{index} " + "a long text of many words " * 40 for index in range(number)]
  else:
    for _ in range(100):
      buffer = io.BytesIO()
      PIL.Image.fromarray(rng.integers(0, 256, (375, 500, 3), np.uint8)).save(buffer, "JPEG")
      inputs.append(buffer.getvalue())
    inputs = [inputs[index % len(inputs)] for index in range(number)]
  ids = strings(f"row:{index}" for index in range(number))
  labels = strings(names[index % len(names)] for index in range(number))
  columns = (labels, ids, strings(["test"] * number))
  return page_lib.write(root, Examples(ids, Inputs.of(kind, inputs), *columns, skipped=[], source="made up"))


def _look(browser, report, options):
  """Prints what one report costs and how axe judges it, and returns the problems."""
  name = report.parent.name
  megabytes, seconds = report.stat().st_size / 1e6, _seconds(browser, report)
  print(f"{name}: {megabytes:.2f} MB, shown after {seconds:.2f} s")
  problems = [f"{name}: {megabytes:.2f} MB"] if megabytes > LIMIT_MB else []
  problems += [f"{name}: {seconds:.2f} s until it is shown"] if seconds > LIMIT_SECONDS else []
  for width, pixels in WIDTHS.items():
    for scheme in SCHEMES:
      page = browser.new_page(viewport={"width": pixels, "height": 900}, color_scheme=scheme, bypass_csp=True)
      failed = []
      page.on("requestfailed", lambda request, failed=failed: failed.append(request.url[:80]))
      page.on("console", lambda line, failed=failed: failed.append(line.text) if line.type == "error" else None)
      page.goto(report.as_uri())
      label = f"{name} {width} {scheme}"
      problems += [f"{label}: {text}" for text in failed]
      if page.evaluate("document.documentElement.scrollWidth") > pixels:
        problems.append(f"{label}: the page scrolls sideways")
      problems += [f"{label}: nothing shows that this goes on: {box}" for box in page.evaluate(UNMARKED)]
      if options.axe:
        problems += [f"{label}: {text}" for text in _axe(page, options.axe)]
      if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=options.output / f"{name}_{width}_{scheme}.png", full_page=options.whole)
      page.close()
  return problems


def _seconds(browser, report):
  """Returns the seconds from the navigation to the end of the load event, with the first paint; best of three."""
  found = []
  for _ in range(3):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(report.as_uri())
    timing = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    paint = "(performance.getEntriesByType('paint')[0] || {startTime: 0}).startTime"
    found.append(max(page.evaluate(timing), page.evaluate(paint)) / 1000)
    page.close()
  return min(found)


def _axe(page, script):
  """Returns the findings of axe that are `BAD`, one line each."""
  page.evaluate(script.read_text(encoding="utf-8"))
  violations = page.evaluate("axe.run().then(found => found.violations)")
  return [
    f"axe {found['impact']} {found['id']}: {len(found['nodes'])} times, e.g. {found['nodes'][0]['html'][:150]} "
    f"{found['nodes'][0]['failureSummary'][:300]}"
    for found in violations
    if found["impact"] in BAD
  ]


if __name__ == "__main__":
  main()
