"""A thousand runs of random graphs with 8 workers that are interrupted as often as the interpreter can."""

import random

import dask
import pytest
from integer_graphs import MeantError, graph_of

from znn_dask.sched import Scheduler, verify
from znn_dask.sched.policies import POLICIES

pytestmark = pytest.mark.timeout(60)
N_GRAPHS, N_RUNS = 125, 8


def random_graph(rng, fails):
    """Up to 40 tasks with up to 5 needs each, of every kind; one fails if wanted, and every task is asked for."""
    reads = {}
    for i in range(rng.randint(5, 40)):
        needs = rng.sample(list(reads), min(i, rng.randint(0, 5)))
        reads[f"{rng.choice('aassp') if needs else 'a'}{i}"] = " ".join(needs)
    if fails:
        reads["bad"] = rng.choice(list(reads))
    return graph_of(reads), list(reads)


def test_a_thousand_runs_of_random_graphs_with_8_workers(nervous):
    rng = random.Random(7)
    schedulers = [Scheduler(num_workers=8, policy=policy) for policy in POLICIES]
    n_runs = 0
    for i in range(N_GRAPHS):
        fails = i % 5 == 0
        dsk, keys = random_graph(rng, fails)
        program = schedulers[i % len(schedulers)].compile(dsk, keys)
        verify(program)
        expected = None if fails else dask.get(dsk, keys)
        for _ in range(N_RUNS):
            if fails:
                with pytest.raises(MeantError) as caught:
                    program.run()
                assert caught.value.__notes__ == ["while running task 'bad'"]
            else:
                assert program.run() == expected
            n_runs += 1
    assert n_runs == 1000
    for scheduler in schedulers:
        scheduler.close()
