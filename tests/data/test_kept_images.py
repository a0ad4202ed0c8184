"""Images that come inside a table, a TFRecord or a TFDS record are kept as files in the cache."""

import pathlib

from tl_app.data.readers import rows


def test_a_damaged_file_is_written_again(tmp_path):
  path = pathlib.Path(rows.keep_image(b"an encoded image", tmp_path))
  path.write_bytes(b"an enkoded image")
  assert rows.keep_image(b"an encoded image", tmp_path) == str(path)
  assert path.read_bytes() == b"an encoded image"
