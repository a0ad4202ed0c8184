"""Seeded damage of real files: bytes that flip, go, come twice or come from another file, and values at the limits."""

import gzip
import io
import random
import zipfile

# What parsers stumble over: NUL, quotes, separators, line ends, numbers at their limits, deep nesting.
TOKENS = (
  *(
    b"\0",
    b'"',
    b"'",
    b",",
    b"\t",
    b"\n",
    b"\r",
    b"\r\n",
    b";",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\x85",
  ),
  *(b"nan", b"inf", b"-1", b"1e999", b"9" * 400, b"0" * 30, b"null", b"true", b"{}", b"[]", b"\\u0000", b"\\ud800"),
  *(
    b"[" * 3000,
    b'{"a":' * 3000,
    b"(" * 500,
    b"=1+1",
    b"sep=|\n",
    b"#",
    b"-DOCSTART-",
    b"O\n\n",
    b"B-",
    b"text",
    b"label",
  ),
  *(
    b"\xff" * 4,
    b"\0" * 8,
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xff\xd8\xff",
    b"IHDR",
    b"IDAT",
    b"acTL",
    b"\xff\xc0",
  ),
)


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
  """Returns `data` with one to six changes.

  Args:
    data: a whole file.
    others: files from which a part may come.
    rng: decides everything.
  """
  data = bytearray(data)
  for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
    rng.choice(_CHANGES)(data, others, rng)
  return bytes(data)


def mutated_container(data: bytes, suffix: str, others: list[bytes], rng: random.Random) -> bytes:
  """Returns a file with changes: of a compressed file, as often as not, what is inside it is changed.

  Args:
    data: a whole file.
    suffix: of its name; ".gz" and ".xlsx" are compressed.
    others, rng: as of `mutated`.
  """
  if rng.random() < 0.5 or not suffix.endswith((".gz", ".xlsx")):
    return mutated(data, others, rng)
  if suffix.endswith(".gz"):
    return gzip.compress(mutated(gzip.decompress(data), others, rng), 1)
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  name = rng.choice(sorted(members))
  members[name] = mutated(members[name], list(members.values()), rng)
  target = io.BytesIO()
  with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  return target.getvalue()


def _flip(data, others, rng):
  for _ in range(rng.choice((1, 1, 4, 32))):
    if data:
      data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _cut(data, others, rng):
  del data[rng.randrange(len(data) + 1) :]


def _remove(data, others, rng):
  start = rng.randrange(len(data) + 1)
  del data[start : start + rng.choice((1, 2, 16, 200))]


def _repeat(data, others, rng):
  start, length = rng.randrange(len(data) + 1), rng.choice((1, 8, 64, 1000))
  data[start:start] = data[start : start + length] * rng.choice((1, 2, 50))


def _insert(data, others, rng):
  start = rng.randrange(len(data) + 1)
  data[start:start] = rng.choice(TOKENS)


def _overwrite(data, others, rng):
  start, token = rng.randrange(len(data) + 1), rng.choice(TOKENS)
  data[start : start + len(token)] = token


def _limit(data, others, rng):
  """Writes a number at its limit where a length or a size may be."""
  width = rng.choice((1, 2, 4, 8))
  value = rng.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1))
  # Headers are at the beginning, of Parquet and zip at the end.
  place = rng.choice((rng.randrange(len(data) + 1), rng.randrange(min(64, len(data) + 1)), max(0, len(data) - 30)))
  data[place : place + width] = value.to_bytes(width, rng.choice(("little", "big")))


def _splice(data, others, rng):
  other = rng.choice(others)
  start, place = rng.randrange(len(other) + 1), rng.randrange(len(data) + 1)
  data[place : place + rng.choice((0, 64))] = other[start : start + rng.choice((16, 256, 4096))]


_CHANGES = (_flip, _flip, _cut, _remove, _repeat, _insert, _insert, _overwrite, _limit, _limit, _splice)
