"""Locks between processes, also on file systems that have none."""

import enum
import errno
import fcntl
import typing

# What `flock` answers on a file system without locks, for instance NFS without its lock service.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO)


class Lock(enum.Enum):
  """The outcome of an attempt to lock a file."""

  HELD = enum.auto()
  TAKEN = enum.auto()
  NOT_AVAILABLE = enum.auto()


def acquire(file: typing.IO, wait: bool = False) -> Lock:
  """Locks an open file until it is closed.

  Args:
    file: the file.
    wait: whether to wait for another process that holds the lock.

  Returns:
    `HELD`; `TAKEN` if another process holds the lock, never with `wait`; or `NOT_AVAILABLE` if the file system has no
    locks.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except BlockingIOError:
    return Lock.TAKEN
  except OSError as error:
    if error.errno in _NO_LOCKS:
      return Lock.NOT_AVAILABLE
    raise
  return Lock.HELD
