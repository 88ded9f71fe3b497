"""The Ray workers that the arguments ask for, if they do."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def workers_of(args: Namespace, searched=None) -> Iterator[tuple]:
    """What trains and evaluates on Ray workers, if the arguments ask for them; else nothing: this process does.

    Args:
        searched: the experiment, if it is searched; whether its devices can be reached is known before it is trained.
    """
    with cluster_of(args) as cluster:
        if cluster is None:
            if searched is not None:
                from nas.experiment import check_near

                check_near(searched)
            yield None, None, None
            return
        if searched is not None and searched.far:
            from workers.far import check_far

            check_far(searched)
        # now: what imports Ray fixes its settings
        from workers.pool import pool_on_workers, trials_on_workers
        from workers.training import trainer_on_workers

        trials = trials_on_workers(cluster), args.workers
        yield trainer_on_workers(cluster), pool_on_workers(cluster), trials


@contextmanager
def cluster_of(args: Namespace) -> Iterator:
    """The Ray cluster that the arguments ask for, or None."""
    if args.workers is None:
        if args.ray or args.gpus_per_worker:
            raise ValueError("--ray and --gpus-per-worker say where workers are; give --workers N as well")
        yield None
        return
    from workers.cluster import RayTalk, connect

    # Ray prints what happens to it where our result goes
    with redirect_stdout(RayTalk()), connect(args.ray, args.workers, args.gpus_per_worker) as cluster:
        yield cluster
