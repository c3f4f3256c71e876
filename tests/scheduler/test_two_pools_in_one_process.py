import threading
from random import Random

from block_programs import BlockProgram, random_step

from ellm.scheduler import Pool


def test_two_pools_run_their_own_programs_at_the_same_time():
    failures = []

    def steps(seed: int) -> None:
        random = Random(seed)
        try:
            with Pool() as pool:
                graphs = [BlockProgram(random) for _ in range(2)]
                executables = [graph.load(pool) for graph in graphs]
                for step in range(100):
                    graphs[step % 2].check_step(executables[step % 2], random_step(random, graphs[step % 2].program))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=steps, args=[seed]) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
