"""``/metrics`` of the platform: the queue beside the runs."""

from prometheus_client.parser import text_string_to_metric_families

from training_platform.api.prometheus import families
from training_platform.queue.store import Store


def samples(store, slots):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families(store, slots)
        for sample in family.samples
    }


def test_jobs_waits_and_slots(tmp_path):
    store = Store(tmp_path)
    try:
        for number in range(3):
            store.add(
                uuid=f"job-{number}", request={"algorithm": "grpo"}, run=f"run-{number}", slots={"gpu": 1}, priority=0
            )
        store.change("job-0", state="queued", queued_at="2026-01-01T00:00:00+00:00")
        store.change("job-0", state="running", started_at="2026-01-01T00:00:30+00:00")
        store.change("job-0", state="failed", reason_code="trainer")
        store.change("job-1", state="failed", reason_code="trainer")
        store.delete("job-1")
        again = {"queued_at": "2026-01-01T02:00:00+00:00", "started_at": "2026-01-01T01:00:00+00:00"}
        store.change("job-2", state="queued", **again)  # waits for another launch
        found = samples(store, {"free": 2, "held": 1})
    finally:
        store.close()
    label = ("algorithm", "grpo")
    assert found["verlkit_jobs", label, ("state", "failed")] == 1
    assert found["verlkit_jobs", label, ("state", "queued")] == 1
    assert found["verlkit_jobs_ended_total", ("reason", "trainer"), ("state", "failed")] == 2  # a deleted job too
    assert found["verlkit_queue_wait_seconds_bucket", label, ("le", "10.0")] == 0
    assert found["verlkit_queue_wait_seconds_bucket", label, ("le", "60.0")] == 1
    assert found["verlkit_queue_wait_seconds_sum", label] == 30
    assert found["verlkit_gpu_slots", ("state", "free")] == 2 and found["verlkit_gpu_slots", ("state", "job")] == 0


def test_the_routes(platform):
    answer = platform.client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"verlkit_build_info", "verlkit_gpu_slots", "verlkit_jobs", "process_resident_memory_bytes"} <= names
    assert platform.client.get("/api/prometheus/targets?job=ray").json() == []
    assert platform.client.get("/api/prometheus/targets?job=other").status_code == 422
