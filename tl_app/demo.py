"""Serves a page on this machine to try a model: answers, explanations, and a form to flag wrong ones.

python -m tl_app.demo --model=runs/movie_reviews/export
python -m tl_app.demo --workdir=runs/flowers

Needs pip install 'tl_app[demo]'. Only this machine reaches the page, and the page loads nothing from elsewhere.
"""

from tl_app.commands import cli


def define_flags():
  cli.flag("model", "", "An exported SavedModel, in place of --workdir; answers then have no explanation.", path=True)
  cli.define(["workdir", *cli.RELOADING_FLAGS])
  cli.flag(
    "flagged", "flagged.csv", "CSV file to which flagged answers are added; --dataset=table:FILE reads it.", path=True
  )
  cli.flag("port", 7860, "Port of the page on 127.0.0.1.", low=1)
  cli.flag("similar", 3, "Number of similar training examples with --workdir. 0: none.", low=0)


def main():
  flags = cli.FLAGS
  cli.need_packages("demo", "gradio")
  from tl_app.commands import arguments

  arguments.demo(flags.model, flags.workdir)
  cli.start_tensorflow()
  from tl_app.commands import demo, demo_page, explain

  explainer = None
  if flags.workdir:
    options = explain.Options(similar=flags.similar)
    explainer = explain.opened(flags.workdir, options, cli.given(cli.RELOADING_FLAGS))
  session = demo.Session(flags.model or flags.workdir, flags.flagged, explainer, flags.trust_backbone)
  cli.print_results(f"http://{demo_page.HOST}:{flags.port} shows the model; Ctrl+C ends it")
  demo_page.serve(session, flags.port)


if __name__ == "__main__":
  cli.run(main, __doc__, define_flags)
