"""Explains answers of a finished run: which words or regions they are due to, and similar training examples.

python -m tl_app.explain --workdir=runs/movie_reviews --text="A gripping, moving film."
python -m tl_app.explain --workdir=runs/flowers --input=photos/ --output=explained/
python -m tl_app.explain --workdir=runs/flowers --report=5

Writes explanations.html and explanations.json; --report adds test examples to report.html.
"""

from tl_app.commands import cli
from tl_app.model.explaining.methods import METHODS

_REPORT = (
  "In place of an input: number of the worst errors, and of the least sure test examples, that are added to "
  "report.html, with one typical example of each class."
)

_METHOD = "Method. auto: grad_cam for images and integrated_gradients for texts, if they fit the model, else occlusion."


def define_flags():
  cli.define(["workdir", *cli.INPUT_COLUMNS, *cli.RELOADING_FLAGS])
  cli.flag("input", "", "An image, a directory of images, a .txt file (one text per line), or a table.", path=True)
  cli.flag("text", (), "A text, in place of --input; several --text are several inputs.")
  cli.flag("text_pair", (), "The second text of each --text, for a model of pairs of texts.")
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
  from tl_app.commands import arguments

  given = [name for name in ("output", "max_inputs") if flags[name].present]
  arguments.explanation(flags.workdir, cli.texts(), flags.input, flags.report, given)
  cli.start_tensorflow()
  from tl_app.commands import explain, results

  names = tuple(name.strip() for name in flags["class"].value.split(",") if name.strip())
  options = explain.Options(flags.method, names, flags.similar, flags.max_inputs, flags.top)
  downloads = cli.given(cli.RELOADING_FLAGS)
  with cli.progress():
    if flags.report:
      written = explain.explain_test(flags.workdir, flags.report, options, downloads)
    else:
      source = cli.inputs()
      written = explain.explain(flags.workdir, source, flags.output, options, cli.given(cli.INPUT_COLUMNS), downloads)
  results.explanation(None if flags.report else written.result, written.page, flags.top)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
