"""Writers of small downloads: a wheel, and a directory with the files of a TF Hub module."""

import hashlib
import zipfile


def make_wheel(index, extra=None, content=b"\x01" * 5000, name="tiny-weights"):
  stem = f"{name.replace('-', '_')}-0.1"
  members = {
    "tiny_weights/__init__.py": b"",
    "tiny_weights/model/weights.bin": content,
    "tiny_weights/model/LICENSE": b"Apache-2.0",
    f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n"
    "Requires-Dist: no-such-dependency\n",
    f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    **(extra or {}),
  }
  members[f"{stem}.dist-info/RECORD"] = "".join(f"{member},,\n" for member in members)
  path = index / f"{stem}-py3-none-any.whl"
  with zipfile.ZipFile(path, "w") as bundle:
    for member, value in members.items():
      bundle.writestr(member, value)
  return hashlib.sha256(path.read_bytes()).hexdigest()


def write_module(directory):
  (directory / "variables").mkdir(parents=True)
  (directory / "saved_model.pb").write_bytes(b"graph")
  (directory / "variables" / "variables.index").write_bytes(b"index")
  (directory / "variables" / "variables.data-00000-of-00001").write_bytes(b"weights")


def write_half(directory):
  write_module(directory)
  (directory / "saved_model.pb").unlink()
