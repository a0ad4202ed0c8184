"""Free memory, the memory that a call needs, and the largest batch size that fits."""

import pathlib
import threading
import time
from collections.abc import Callable, Sequence

import tensorflow as tf

# Share of the free memory that a step may use. The rest covers differences between steps, and other processes.
SHARE = 0.8
# Seconds between two measurements of the resident memory; a step takes tenths of a second.
INTERVAL = 0.002
# Files of a control group with its limit and usage, and the entry of memory.stat for page cache that can be reclaimed.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def available(proc: str | pathlib.Path = "/proc", groups: str | pathlib.Path = "/sys/fs/cgroup") -> int:
  """Returns the number of bytes that this process can still allocate, within the machine and its control groups.

  Args:
    proc: mount point of procfs.
    groups: mount point of the control groups.
  """
  proc, groups = pathlib.Path(proc), pathlib.Path(groups)
  fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if ":" in line)
  free = [1024 * int(fields["MemAvailable"].split()[0])]
  membership = proc / "self" / "cgroup"
  for line in membership.read_text().splitlines() if membership.exists() else ():
    _, controllers, path = line.split(":", 2)
    if controllers and "memory" not in controllers.split(","):
      continue
    root, names = (groups / "memory", _V1) if controllers else (groups, _V2)
    group = pathlib.PurePosixPath(path.lstrip("/"))
    free += [_remaining(root / directory, names) for directory in (group, *group.parents)]
  return min(size for size in free if size is not None)


def _remaining(directory, names):
  """Returns the bytes that a control group can still allocate, or None if it has no limit or cannot be read."""
  limit_file, usage_file, cache_entry = names
  try:
    limit = int((directory / limit_file).read_text())
    used = int((directory / usage_file).read_text())
    stat = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
  except (OSError, ValueError):
    return None
  return max(0, limit - used + int(stat.get(cache_entry, 0)))


def resident() -> int:
  """Returns the resident memory of this process in bytes."""
  with open("/proc/self/status") as file:
    return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


def peak(function: Callable[[], object]) -> int:
  """Calls `function` and returns the peak of the resident memory of this process during the call, in bytes."""
  sizes, done = [resident()], threading.Event()

  def watch():
    while not done.is_set():
      sizes.append(resident())
      time.sleep(INTERVAL)

  watcher = threading.Thread(target=watch, daemon=True)
  watcher.start()
  try:
    function()
  finally:
    done.set()
    watcher.join()
  return max(sizes)


def back_off(sizes: Sequence[int], trial: Callable[[int], object]) -> int | None:
  """Returns the first size at which `trial` does not run out of memory, or None.

  Args:
    sizes: batch sizes, descending.
    trial: function of a size, which raises `tf.errors.ResourceExhaustedError` if the size is too large.
  """
  for size in sizes:
    try:
      trial(size)
      return size
    except tf.errors.ResourceExhaustedError:
      continue
  return None


def estimate(
  sizes: Sequence[int], peak_at: Callable[[int], int], start: int, free: int
) -> tuple[int | None, dict[int, float]]:
  """Estimates the memory of batch sizes from measurements of the small ones.

  On a CPU a process that uses too much memory is killed, and there is no exception to catch. So sizes are measured from
  the smallest upwards, up to a quarter of the largest. A size is measured only if it fits even if memory grows in
  proportion to the size. The memory of larger sizes is extrapolated linearly from the last two measurements.

  Args:
    sizes: batch sizes, descending.
    peak_at: function from a size to the peak of the resident memory in bytes while it is computed.
    start: resident memory now, in bytes.
    free: free memory in bytes, of which `SHARE` may be used.

  Returns:
    (the largest size that fits, or None; {size: resident bytes}).
  """
  limit, used, slope, last = start + SHARE * free, {}, 0.0, 0
  for size in reversed(sizes):
    proportional = start + (used[last] - start) * size / last if used else start
    if last and (4 * size > sizes[0] or proportional > limit):
      break
    # Freed memory may stay resident, so a smaller value at a larger size is noise.
    used[size] = max(peak_at(size), used.get(last, 0))
    slope = (used[size] - used.get(last, start)) / (size - last)
    last = size
  used |= {size: used[last] + slope * (size - last) for size in sizes if size > last}
  return next((size for size in sizes if used[size] <= limit), None), used
