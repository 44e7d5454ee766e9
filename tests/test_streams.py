"""A client's stream, by whole runs: no row twice, lost rows again, resumed at its place.

Four clients with some dozen packed rows each; a job takes two steps of one row.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from fedllm_app.client.train import local_batches
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError, WireError
from fedllm_app.core.job import Job
from fedllm_app.core.plan import Work
from fedllm_app.opening import opening_of
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import LocalTransport, build_loop, run_local
from fedllm_app.report.page import summary_rows
from fedllm_app.run.checkpoint import latest_checkpoint, load_state
from fedllm_app.run.metrics import read_lines

NEED = 2
RUN = {
    "run.rounds": 4, "run.checkpoint-every": 2, "model.train": "full", "strategy.name": "fedavg",
    "partition.clients": 4, "round.clients": 3, "client.steps": 2, "client.batch": 1,
    "client.lr": 0.1, "task.max-tokens": 4,
}  # fmt: skip


@dataclass
class Seen:
    """What devices were asked for: by client, the position of each job; and which were lost."""

    jobs: list[tuple[int, str, int]] = field(default_factory=list)
    lose: frozenset[tuple[int, str]] = frozenset()
    die_in: int = 0

    def transport(self, parts, folder):
        seen = self

        class Watched(LocalTransport):
            def submit(self, requests, timeout_s):
                if seen.die_in and requests[0].round == seen.die_in:
                    raise KeyboardInterrupt
                jobs = [job for request in requests for job in request.jobs]
                seen.jobs += [(job.id, job.client, job.position) for job in jobs]
                super().submit(requests, timeout_s)

            def poll(self):
                return [
                    replace(reply, vectors={}, error="lost")
                    if (reply.job, reply.client) in seen.lose
                    # A device may say what it likes of what it used.
                    else replace(reply, metrics=replace(reply.metrics, examples=999))
                    for reply in super().poll()
                ]

        return Watched(parts, folder)


def config(tiny, name, **more):
    return RunConfig.parse(tiny.keys("pretraining") | RUN | {"run.name": name} | more)


def play(tiny, name, seen, **more):
    return run_local(config(tiny, name, **more), seen.transport)


def state(folder):
    return load_state(latest_checkpoint(folder / "checkpoints"))


def test_positions_move_with_accepted_replies_alone(tiny):
    first = Seen()
    play(tiny, "stream-first", first, **{"run.rounds": 1})
    lost = min((job, client) for job, client, _ in first.jobs)
    seen = Seen(lose=frozenset([lost]))
    folder = play(tiny, "stream-lost", seen)
    expected = dict.fromkeys("0123", 0)
    for job, client, position in seen.jobs:
        assert position == expected[client]
        expected[client] += NEED * ((job, client) != lost)
    assert state(folder)[0].progress == {c: n for c, n in expected.items() if n}
    assert [r["clients"] for r in read_lines(folder / "metrics.jsonl")[1:]] == [2, 3, 3, 3]


def test_no_row_is_trained_on_twice_until_the_stream_ends(tiny, said):
    seen = Seen()
    folder = play(tiny, "stream-end", seen, **{"run.rounds": 500})
    parts = Parts(config(tiny, "stream-end").resolved(), Place(tiny.home))
    owned = {c: parts.data.rows(parts.data.number[c]) for c in "0123"}
    jobs = [job for job in seen.jobs if job[1] == "2"]
    assert len(jobs) == len(owned["2"]) // NEED
    read = []
    real = parts.data.train.arrays
    parts.data.train.arrays = lambda rows: read.extend(rows.tolist()) or real(rows)
    device = parts.device(folder)
    for job, client, position in jobs:
        assert len(list(local_batches(device, Job(job, client, position=position), Work()))) == 2
    assert len(read) == len(set(read)) == NEED * len(jobs)
    assert set(read) <= set(owned["2"].tolist())
    assert "hold no further job of 2 rows" in said.text
    end, _ = state(folder)
    assert end.finished == "the streams ended"
    assert end.round < 500 and (folder / "model" / "config.json").exists()
    assert ("ended streams", "4, of clients 0, 1, 2, 3") in summary_rows(folder)
    assert said.text.count("hold no further job") <= 4, "each client is told of once"


def test_the_opening_counts_rows_and_tokens(tiny):
    c = config(tiny, "stream-opening").resolved()
    parts, folder = Parts(c, Place(tiny.home)), tiny.home / "runs" / "stream-opening"
    said = opening_of(parts, folder, build_loop(parts, folder, LocalTransport(parts, folder)))
    rows, each = len(parts.data.train), parts.data.counts
    line = f"of 4 tokens: {rows} ({rows * 4} tokens), {each.min()} to {each.max()} of each client"
    assert line in said
    assert "a round takes 2 of a client's stream" in said
    assert "tokens that fill no row" in said


def test_a_stream_that_wraps_begins_again(tiny):
    seen = Seen()
    more = {"client.stream-end": "wrap", "run.rounds": 40, "round.clients": 4}
    folder = play(tiny, "stream-wrap", seen, **more)
    assert state(folder)[0].progress == dict.fromkeys("0123", 80)
    assert max(position for _, _, position in seen.jobs) == 78


def test_a_killed_run_stands_where_it_stood(tiny):
    whole = play(tiny, "stream-whole", Seen())
    with pytest.raises(KeyboardInterrupt):
        play(tiny, "stream-cut", Seen(die_in=4))  # after round 3; the checkpoint is of round 2
    seen = Seen()
    run = play(tiny, "stream-cut", seen)
    assert {job for job, _, _ in seen.jobs} == {3, 4}
    (ours, tensors), (theirs, others) = state(run), state(whole)
    assert ours.progress == theirs.progress
    assert np.array_equal(tensors["params"], others["params"])
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_each_client_has_one_source_or_a_mixture(tiny):
    for law, clients in (("natural", 6), ("mixture", 4)):
        c = config(tiny, f"stream-{law}", **{"partition.name": law, "partition.alpha": 1.0})
        data = Parts(c.resolved(), Place(tiny.home)).data
        assert len(data.clients) == clients
        assert data.counts.max() - data.counts.min() <= 6  # as many as there are sources
        assert sorted(data.partition.order.tolist()) == list(range(len(data.train)))
        users = np.array(data.train.column("user").to_pylist())
        of_client = [len(set(users[data.rows(i)])) for i in range(clients)]
        assert (max(of_client) == 1) == (law == "natural")


def test_settings_that_make_no_stream_are_refused_at_once():
    wrong = {"task.name": "pretraining", "client.stream-end": "wrap", "data.documents": "joined"}
    with pytest.raises(
        ConfigError, match=r"client\.steps is 0 with client\.reading = 'stream', as"
    ):
        RunConfig.parse(wrong)
    with pytest.raises(ConfigError) as error:
        RunConfig.parse({k: v for k, v in wrong.items() if k != "task.name"})
    assert "client.stream-end is 'wrap'" in str(error.value)
    assert "data.documents is 'joined'" in str(error.value)


def test_a_plan_of_more_steps_than_are_left_reads_no_row_twice(tiny):
    c = config(tiny, "stream-work").resolved()
    parts = Parts(c, Place(tiny.home))
    rows = len(parts.data.rows(parts.data.number["1"]))
    device = parts.device(tiny.home)

    def read(position, work, **client):
        own = replace(device, settings=device.settings.model_copy(update=client))
        job = Job(1, "1", position=position)
        return [len(b["input_ids"]) for b in local_batches(own, job, work)]

    assert read(0, Work(steps=3, batch=2)) == [2, 2, 2]
    assert read(0, Work(epochs=5)) == [1, 1], "a stream has no epochs"
    assert read(rows - 3, Work(steps=9, batch=2)) == [2, 1]
    assert read(rows, Work()) == []


def test_an_asynchronous_run_ends_with_its_streams(tiny):
    seen = Seen()
    more = {
        "round.pacing": "async", "round.concurrency": 3, "round.goal": 2, "run.rounds": 500,
    }  # fmt: skip
    folder = play(tiny, "stream-async", seen, **more)
    end, _ = state(folder)
    assert end.finished == "the streams ended"
    by_client = {c: [p for _, client, p in seen.jobs if client == c] for c in "0123"}
    for positions in by_client.values():
        assert positions == list(range(0, NEED * len(positions), NEED))
    assert end.progress == {c: NEED * len(positions) for c, positions in by_client.items()}


def test_a_device_packs_its_own_file_and_reads_it_on_from_where_the_server_says(tiny, tmp_path):
    own = {"data.train": "node", "data.test": str(tiny.root / "text" / "train.jsonl")}
    c = config(tiny, "stream-device", **own).resolved()
    place = Place(tmp_path, data=str(tiny.root / "text" / "train.jsonl"), client="alice")
    parts = Parts(c, place)
    table = parts.own_data
    assert parts.counts() == {"alice": len(table)}, "what the server learns of it"
    device = parts.device(tmp_path)

    def read(position, steps):
        job = Job(1, "alice", position=position)
        batches = local_batches(device, job, Work(steps=steps))
        return np.concatenate([batch["input_ids"].numpy() for batch in batches])

    whole = read(0, len(table))
    assert np.array_equal(read(5, 3), whole[5:8])
    every = table.arrays(np.arange(len(table)))["input_ids"]
    assert sorted(map(tuple, whole)) == sorted(map(tuple, every.astype(np.int64)))
    with pytest.raises(WireError, match="the job is of client 'bob'"):
        next(local_batches(device, Job(1, "bob"), Work()))
