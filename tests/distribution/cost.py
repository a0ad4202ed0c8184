"""A cost model of data-parallel training: seconds of a step against the number of workers.

python -m tests.distribution.cost [--parameters=22000000] [--gbit=10] [--compute=1.0] [--latency=0.0005]

Each worker computes its share of a fixed global batch. Then a ring adds up the gradients: each of n workers sends
2 (n - 1) / n times their bytes (Patarasuk & Yuan 2009), in 2 (n - 1) rounds. The part of a step that does not become
smaller with the share of the batch (the update of the weights, the way into Python) is `fixed`.
"""

import argparse
import dataclasses

# Of a gradient in float32.
BYTES = 4
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclasses.dataclass(frozen=True)
class Cost:
  """What decides the seconds of a step.

  Attributes:
    parameters: number of trained weights.
    gbit: bandwidth of a worker in Gbit/s.
    compute: seconds in which one worker computes the global batch.
    fixed: seconds of a step that do not depend on the size of the batch.
    latency: seconds of a round of the ring.
  """

  parameters: float
  gbit: float
  compute: float
  fixed: float = 0.0
  latency: float = 0.0005

  def seconds(self, workers: int) -> float:
    """Returns the seconds of a step."""
    return self.fixed + self.compute / workers + self.exchange(workers)

  def exchange(self, workers: int) -> float:
    """Returns the seconds in which the gradients are added up."""
    volume = 2 * (workers - 1) / workers * BYTES * self.parameters
    return volume / (self.gbit * 1e9 / 8) + 2 * (workers - 1) * self.latency

  def table(self) -> list[list[str]]:
    """Returns rows [workers, seconds of a step, of which the exchange, speed-up, efficiency], the header first."""
    rows = [["workers", "seconds a step", "of which the exchange", "speed-up", "efficiency"]]
    for workers in WORKERS:
      speedup = self.seconds(1) / self.seconds(workers)
      seconds = [f"{self.seconds(workers):.3f}", f"{self.exchange(workers):.3f}"]
      rows.append([str(workers), *seconds, f"{speedup:.1f}", f"{speedup / workers:.0%}"])
    return rows


# MiniLM, 22.7 million weights, a batch of 32 texts in 1 s on one worker with 10 Gbit/s: the table of docs.
EXAMPLE = Cost(parameters=22.7e6, gbit=10, compute=1.0, fixed=0.05)


def main():
  """Prints the table for the given numbers."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  for field in dataclasses.fields(Cost):
    parser.add_argument(f"--{field.name}", type=float, default=getattr(EXAMPLE, field.name))
  for row in Cost(**vars(parser.parse_args())).table():
    print("  ".join(f"{cell:>22}" for cell in row))


if __name__ == "__main__":
  main()
