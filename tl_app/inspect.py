"""Shows the backbones that are known, or one of them: inputs, features, parameters, stages, licence.

python -m tl_app.inspect
python -m tl_app.inspect --backbone=minilm_l6.pypi
"""

from tl_app import backbones, cli, inspection
from tl_app.assets import Assets

FLAGS = cli.FLAGS
cli.define(["cache_dir", "offline", "backbone", "preprocessor", "pooling", "image_size"])


def main():
  if not FLAGS.backbone:
    print(inspection.listing())
    return
  backbones.resolve(FLAGS.backbone)
  cli.start_tensorflow()
  assets = Assets(FLAGS.cache_dir, FLAGS.offline)
  print(inspection.describe(FLAGS.backbone, assets, FLAGS.preprocessor, FLAGS.pooling, FLAGS.image_size))


if __name__ == "__main__":
  cli.run(main, __doc__)
