"""What memory is free, what a call takes of it, and the largest size that fits."""

import pathlib
import threading
import time

import tensorflow as tf

# Of the free memory; the rest is for what varies from step to step, and for the machine.
SHARE = 0.8
# Between two looks at the resident memory, seconds; a step takes tenths of one.
INTERVAL = 0.002
# Names of the files of a control group: limit, what is used, and what of that the kernel gives back at need.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def available(proc="/proc", groups="/sys/fs/cgroup"):
  """Returns the bytes that this process may still take, of the machine's and of its control groups' memory.

  Args:
    proc, groups: where these file systems are mounted.
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
    own = pathlib.PurePosixPath(path.lstrip("/"))
    free += [_left(root / directory, names) for directory in (own, *own.parents)]
  return min(each for each in free if each is not None)


def _left(directory, names):
  """Returns the bytes that a control group may still take, or None where it has no limit or is not to be seen."""
  limit, usage, cache = names
  try:
    most = int((directory / limit).read_text())
    used = int((directory / usage).read_text())
    stat = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
  except (OSError, ValueError):
    return None
  return max(0, most - used + int(stat.get(cache, 0)))


def resident():
  """Returns the resident memory of this process, bytes."""
  with open("/proc/self/status") as file:
    return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


def peak(function):
  """Calls `function` and returns the most resident memory of this process meanwhile, bytes."""
  found, done = [resident()], threading.Event()

  def watch():
    while not done.is_set():
      found.append(resident())
      time.sleep(INTERVAL)

  watcher = threading.Thread(target=watch, daemon=True)
  watcher.start()
  try:
    function()
  finally:
    done.set()
    watcher.join()
  return max(found)


def back_off(sizes, trial):
  """Returns the first of `sizes`, descending, at which `trial` does not run out of memory, or None.

  Args:
    sizes: ints.
    trial: function of a size; it raises `tf.errors.ResourceExhaustedError` where that is too large.
  """
  for size in sizes:
    try:
      trial(size)
      return size
    except tf.errors.ResourceExhaustedError:
      continue
  return None


def estimate(sizes, peak_at, start, free):
  """Returns (the largest of `sizes` that fits or None, {size: resident bytes that it takes}).

  A process on a CPU that takes too much is killed: there is nothing to catch. So sizes are measured from the smallest
  upwards, each if it fits even where nothing of what the one before took is constant, until a quarter of the largest;
  the others lie on the line through the last two.

  Args:
    sizes: ints, descending.
    peak_at: function, size -> resident bytes at most while it runs.
    start: resident bytes now.
    free: bytes that may be taken beside them; `SHARE` of these are.
  """
  limit, taken, slope, last = start + SHARE * free, {}, 0.0, 0
  for size in reversed(sizes):
    most = start + (taken[last] - start) * size / last if taken else start
    if last and (4 * size > sizes[0] or most > limit):
      break
    # What is freed stays resident, and less at a larger size is chance.
    taken[size] = max(peak_at(size), taken.get(last, 0))
    slope = (taken[size] - taken.get(last, start)) / (size - last)
    last = size
  taken |= {size: taken[last] + slope * (size - last) for size in sizes if size > last}
  return next((size for size in sizes if taken[size] <= limit), None), taken
