"""``/metrics`` of the platform: runs and machine as the monitor has them, and the queue; where Ray's and verl's are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from monitor.prometheus import CONTENT_TYPE, PREFIX, RunsCollector, Series, exposition
from monitor.store import Monitor
from monitor.system import Sampler
from monitor.targets import Job, targets
from training_platform.queue.scheduler import Scheduler
from training_platform.queue.store import ACTIVE, ENDED, WAITING, Store

BUCKETS = (1, 10, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)  # seconds in the queue
JOBS = Series(f"{PREFIX}jobs", "Jobs in each state.", ("state", "algorithm"))
ENDS = Series(f"{PREFIX}jobs_ended", "Jobs that have ended.", ("state", "reason"))
WAITED = Series(f"{PREFIX}queue_wait_seconds", "Time of started jobs in the queue.", ("algorithm",))
SLOTS = Series(f"{PREFIX}gpu_slots", "GPUs that jobs are given, by what has them.", ("state",))


def families(store: Store, slots: Mapping[str, int]) -> Iterator[Metric]:
    """The queue's families.

    Args:
        store: Has the jobs.
        slots: State of a GPU -> how many; free, job or held.
    """
    census, waits = store.census(), store.waits()
    algorithms = sorted({algorithm for _, algorithm in census})
    states = GaugeMetricFamily(JOBS.name, JOBS.help, labels=JOBS.labels)
    for state in (*WAITING, *ACTIVE, *ENDED):
        for algorithm in algorithms:
            states.add_metric([state, algorithm], census.get((state, algorithm), 0))
    ends = CounterMetricFamily(ENDS.name, ENDS.help, labels=ENDS.labels)
    for (state, reason), count in store.ends().items():
        ends.add_metric([state, reason], count)
    waited = HistogramMetricFamily(WAITED.name, WAITED.help, labels=WAITED.labels)
    for algorithm, times in waits.items():
        buckets = [(str(float(limit)), sum(time <= limit for time in times)) for limit in BUCKETS]
        waited.add_metric([algorithm], [*buckets, ("+Inf", len(times))], sum(times))
    gpus = GaugeMetricFamily(SLOTS.name, SLOTS.help, labels=SLOTS.labels)
    for state in ("free", "job", "held"):
        gpus.add_metric([state], slots.get(state, 0))
    yield from (states, ends, waited, gpus)


def routes(scheduler: Scheduler, monitor: Monitor, sampler: Sampler, slot_states: Callable[[], list[str]]) -> APIRouter:
    """The routes.

    Args:
        scheduler: Has the jobs.
        monitor: Has the runs.
        sampler: Has the machine.
        slot_states: State of each GPU that jobs are given.
    """
    router = APIRouter()
    collector = RunsCollector(monitor, sampler, lambda: families(scheduler.store, Counter(slot_states())))
    scrape = exposition(collector)

    @router.get("/metrics", tags=["server"], summary="For Prometheus: runs, machine, queue")
    def metrics() -> Response:
        return Response(scrape(), media_type=CONTENT_TYPE)

    @router.get("/api/prometheus/targets", tags=["server"], summary="Where a run's own servers have their metrics")
    def discovery(job: Job) -> list[dict[str, Any]]:
        return targets(monitor, job)

    return router
