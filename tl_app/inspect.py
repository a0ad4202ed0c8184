"""Shows the backbones that are known, one of them (inputs, features, stages, licence), or what a run changed.

python -m tl_app.inspect
python -m tl_app.inspect --backbone=minilm_l6.pypi
python -m tl_app.inspect --workdir=runs/movie_reviews
"""

from tl_app import backbones, cli, workdir
from tl_app.assets import Assets
from tl_app.commands import inspect_backbone
from tl_app.errors import UserError

FLAGS = cli.FLAGS
_HOW = ["preprocessor", "pooling", "image_size", "pixels"]
cli.define(["cache_dir", "offline", "backbone", *_HOW])
cli.flags.DEFINE_string("workdir", "", "A finished run: its export, stage by stage, beside the original backbone.")


def main():
  if FLAGS.workdir:
    inspect_run()
    return
  if not FLAGS.backbone:
    print(inspect_backbone.listing())
    return
  backbones.resolve(FLAGS.backbone)
  cli.start_tensorflow()
  assets = Assets(FLAGS.cache_dir, FLAGS.offline)
  print(inspect_backbone.describe(FLAGS.backbone, assets, **{name: FLAGS[name].value for name in _HOW}))


def inspect_run():
  if cli.given(["backbone", *_HOW]):
    raise UserError("--workdir names a run, which has a backbone: leave --backbone and its flags out")
  workdir.open_run(FLAGS.workdir)
  cli.start_tensorflow()
  from tl_app.commands import inspect_run as inspect_run_lib

  found = inspect_run_lib.compare(FLAGS.workdir, FLAGS.cache_dir, FLAGS.offline)
  print(inspect_run_lib.table(found))
  inspect_run_lib.require_agreement(found)


if __name__ == "__main__":
  cli.run(main, __doc__)
