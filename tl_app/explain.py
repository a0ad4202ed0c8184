"""Explains answers of a finished run: which words or regions they are due to, and similar training examples.

python -m tl_app.explain --workdir=runs/movie_reviews --text="A gripping, moving film."
python -m tl_app.explain --workdir=runs/flowers --input=photos/ --output=explained/
python -m tl_app.explain --workdir=runs/flowers --report=5

Writes explanations.html and explanations.json; --report adds test examples to report.html.
"""

from tl_app import cli, workdir
from tl_app.config.rules import RELOADING_FLAGS
from tl_app.errors import UserError
from tl_app.explaining.methods import METHODS
from tl_app.workdir import INPUT_COLUMNS

_REPORT = (
  "In place of an input: number of the worst errors, and of the least sure test examples, that are added to "
  "report.html, with one typical example of each class."
)

_METHOD = "Method. auto: grad_cam for images and integrated_gradients for texts, if they fit the model, else occlusion."


def define_flags():
  cli.define(["workdir", *INPUT_COLUMNS, *RELOADING_FLAGS])
  cli.flag("input", "", "An image, a directory of images, a .txt file (one text per line), or a table.", path=True)
  cli.flag("text", "", "One text, in place of --input.")
  cli.flag("text_pair", "", "The second text, beside --text, for a model of pairs of texts.")
  cli.flag("output", "", "Directory for the two files. Empty: explanations/ in --workdir.", path=True)
  cli.flag("method", METHODS[0], _METHOD, choices=METHODS)
  cli.flag("class", "", "Classes, targets or entity types to explain, separated by commas. Empty: the answer.")
  cli.flag("top", 10, "Number of words that are listed, those with the strongest scores first.", low=1)
  cli.flag("similar", 3, "Number of similar training examples. 0: none.", low=0)
  cli.flag("max_inputs", 20, "Maximum number of inputs to explain, from the first one.", low=1)
  cli.flag("report", 0, _REPORT, low=0)


def main():
  flags = cli.FLAGS
  cli.need("workdir")
  texts = [flags[name].value for name in ("text", "text_pair") if flags[name].present]
  if [bool(texts), bool(flags.input), bool(flags.report)].count(True) != 1 or (len(texts) == 1 and not flags.text):
    raise UserError("give one of --input, a file or directory, --text (and --text_pair for a pair), or --report")
  unused = [name for name in ("output", "max_inputs") if flags.report and flags[name].present]
  if unused:
    raise UserError(f"--{unused[0]} does nothing with --report, which adds test examples to report.html: remove it")
  workdir.open_run(flags.workdir)
  from tl_app.commands import early_checks

  early_checks.require_input(flags.input)
  cli.start_tensorflow()
  from tl_app.commands import explain
  from tl_app.report import explanations

  names = tuple(name.strip() for name in flags["class"].value.split(",") if name.strip())
  options = explain.Options(flags.method, names, flags.similar, flags.max_inputs, flags.top)
  downloads = cli.given(RELOADING_FLAGS)
  with cli.progress():
    if flags.report:
      written = explain.explain_test(flags.workdir, flags.report, options, downloads)
    else:
      source = [texts if texts[1:] else texts[0]] if texts else flags.input
      written = explain.explain(flags.workdir, source, flags.output, options, cli.given(INPUT_COLUMNS), downloads)
  shown = [] if flags.report else [explanations.lines(written.result, flags.top)]
  cli.print_results("\n".join([*shown, str(written.page)]))


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
