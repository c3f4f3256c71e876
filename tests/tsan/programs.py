"""What runs under the sanitizer: random programs for several steps each, every other one traced, and steps that follow.

On 1 to 4 workers, and on 13, which are two crews.
"""

import os
import sys
from random import Random

from block_programs import BlockProgram, random_step
from follow import Chain

from ellm.scheduler import Pool
from ellm.scheduler.probe_program import TABLE, ProbeGroup, probe_program

FOLLOWING = 100


def main(seeds: int) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    tasks = programs = 0
    for workers in (1, 2, 3, 4, 13):
        with Pool(cores=(allowed * workers)[:workers]) as pool:
            for seed in range(seeds if workers < 13 else seeds // 4):
                programs += 1
                random = Random(seed)
                graph = BlockProgram(random)
                executable = graph.load(pool)
                trace = executable.trace() if seed % 2 else None
                for _ in range(8):
                    graph.choose(random)
                    graph.check_step(executable, random_step(random, graph.program))
                    assert trace is None or len(trace.spans())
                tasks += executable.statistics()["total"]["tasks"]
            chain = Chain(FOLLOWING, rows=2)
            chain.run(pool.load(probe_program([ProbeGroup(3 * workers), ProbeGroup(5, [0])]), TABLE))
            assert chain.tokens[1:] == [chain.drawn(step).tolist() for step in range(FOLLOWING - 1)]
    print(f"{programs} programs, {8 * programs} steps, {tasks} tasks")


if __name__ == "__main__":
    main(int(sys.argv[1]))
