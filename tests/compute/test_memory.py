"""Free memory from small files, and sizes that fit: found by trial, and by extrapolation."""

import time

import numpy as np
import pytest
import tensorflow as tf

from tl_app.compute import memory
from tl_app.training import batch_size

GB = 10**9
SIZES = [32, 16, 8, 4, 2, 1]


def _machine(root, available, limits=(), v2=False):
  """Writes the files of a machine: bytes that are available, and {directory: (limit, usage, page cache)}."""
  proc, groups = root / "proc", root / "cgroup"
  (proc / "self").mkdir(parents=True)
  (proc / "meminfo").write_text(f"MemTotal:   99 kB\nMemAvailable:  {available // 1024} kB\n")
  own = "0::/slice/job" if v2 else "8:pids:/elsewhere\n4:memory:/slice/job"
  (proc / "self" / "cgroup").write_text(own + "\n")
  names = (
    ("memory.max", "memory.current", "inactive_file")
    if v2
    else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
  )
  for directory, values in dict(limits).items():
    path = groups / ("" if v2 else "memory") / directory
    path.mkdir(parents=True, exist_ok=True)
    (path / names[0]).write_text(f"{values[0]}\n")
    (path / names[1]).write_text(f"{values[1]}\n")
    (path / "memory.stat").write_text(f"anon 5\n{names[2]} {values[2]}\n")
  return memory.available(proc, groups)


@pytest.mark.parametrize("v2", [False, True])
def test_the_tightest_group_counts_and_its_page_cache_is_free(tmp_path, v2):
  limits = {"slice/job": ("max" if v2 else 2**63, 0, 0), "slice": (6 * GB, 5 * GB, GB), "": (9 * GB, 5 * GB, 0)}
  assert _machine(tmp_path, 8 * GB, limits, v2) == 2 * GB


def test_without_groups_the_machine_counts(tmp_path):
  assert _machine(tmp_path, 8 * GB) == 8 * GB // 1024 * 1024


def test_this_machine_has_memory_and_a_peak_is_seen():
  assert memory.available() > 0
  before = memory.resident()

  def allocate():
    rows = np.ones(25_000_000)
    time.sleep(0.05)
    return rows

  assert memory.peak(lambda: allocate() is None) >= before + 150_000_000


def _runs_up_to(most, tried):
  def trial(size):
    tried.append(size)
    if size > most:
      raise tf.errors.ResourceExhaustedError(None, None, f"OOM when allocating {size}")

  return trial


@pytest.mark.parametrize(("most", "expected"), [(40, 32), (31, 16), (7, 4), (1, 1), (0, None)])
def test_back_off_halves_until_a_step_runs(most, expected):
  tried = []
  assert memory.back_off(SIZES, _runs_up_to(most, tried)) == expected
  assert tried == SIZES[: len(tried)] and (expected is None or tried[-1] == expected)


def test_another_error_is_not_taken_for_a_lack_of_memory():
  def broken(size):
    raise tf.errors.InvalidArgumentError(None, None, "no")

  with pytest.raises(tf.errors.InvalidArgumentError):
    memory.back_off(SIZES, broken)


# A step takes 3 GB, and 1 GB for each example; 4 GB are resident before.
@pytest.mark.parametrize(
  ("free", "expected", "measured"),
  [
    (100, 32, [1, 2, 4, 8]),
    (32, 16, [1, 2, 4, 8]),
    (14, 8, [1, 2, 4]),
    (10.1, 4, [1, 2]),
    (9.9, 1, [1]),
    (5.1, 1, [1]),
    (4.9, None, [1]),
  ],
)
def test_an_estimate_measures_what_surely_fits(free, expected, measured):
  seen = []
  size, taken = memory.estimate(SIZES, lambda size: seen.append(size) or (7 + size) * GB, 4 * GB, free * GB)
  assert size == expected and seen == measured
  if len(measured) > 1:
    assert taken == {size: (7 + size) * GB for size in SIZES}


def test_less_at_a_larger_size_is_chance():
  size, taken = memory.estimate([8, 4, 2, 1], {1: 10 * GB, 2: 9 * GB}.get, 8 * GB, 8 * GB)
  assert size == 8 and taken[8] == 10 * GB


@pytest.mark.parametrize(
  ("whole", "devices", "expected"),
  [(32, 1, SIZES), (32, 4, [32, 16, 8, 4]), (30, 1, [30, 15, 6, 3, 1]), (7, 1, [7, 1]), (1, 1, [1]), (2, 2, [2])],
)
def test_sizes_are_equal_parts_and_at_most_halves(whole, devices, expected):
  assert batch_size.sizes(whole, devices) == expected
