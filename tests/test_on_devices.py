"""Devices that measure the model on what they hold out, each with parts of its own and no Flower.

Six users have eight texts each: as one file of a simulation, and as six files of six devices.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from toys import Scripted, toy_device, toy_loop

from fedllm_app.client.measure import measure, served
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.job import Job, Measurement
from fedllm_app.data.users import own_rows
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import LocalTransport, run_local
from fedllm_app.run.metrics import read_lines
from fedllm_app.server.methods import STRATEGIES

USERS = [f"user-{i}" for i in range(6)]
AWAY = "user-0"  # the one whose draw is below a share of 0.22


class Devices:
    """Devices in one process, each of which knows its own file alone.

    Attributes
    ----------
    edits : by client, what becomes of what it measured.
    """

    def __init__(self, of_client, edits=None):
        self.of_client, self.edits = of_client, edits or {}

    def clients(self):
        return {c: n for one in self.of_client.values() for c, n in one.clients().items()}

    def busy(self):
        return ()

    def profiles(self):
        return {}

    def submit(self, requests, timeout_s):
        for request in requests:
            for job in request.jobs:
                self.of_client[job.client].submit([replace(request, jobs=(job,))], timeout_s)

    def poll(self):
        return [reply for one in self.of_client.values() for reply in one.poll()]

    def held(self):
        return {c: n for one in self.of_client.values() for c, n in one.held().items()}

    def measure(self, request, timeout_s):
        found = []
        for job in request.jobs:
            one = replace(request, jobs=(job,))
            found += self.of_client[job.client].measure(one, timeout_s)
        return [e for m in found for e in self.edits.get(m.client, lambda m: [m])(m)]


@pytest.fixture(scope="module")
def play(tiny, tmp_path_factory):
    """Return a function that plays a run on six devices and returns its folder."""
    root, bert = tmp_path_factory.mktemp("devices"), str(tiny.root / "bert")
    rows = [json.loads(line) for line in (tiny.root / "text" / "train.jsonl").open()]
    for user in USERS:
        own = "".join(json.dumps(row) + "\n" for row in rows if row["user"] == user)
        (root / f"{user}.jsonl").write_text(own)
    made = {}

    def device(config, user):
        place = Place(root / user, str(root / f"{user}.jsonl"), bert, bert, user)
        key = user, config.data, config.strategy.name
        made[key] = made.get(key) or LocalTransport(Parts(config, place), root / user)
        return made[key]

    def played(name, edits=None, **keys):
        asked = config(
            tiny, name, **{"data.train": "node", "data.labels": "sky,stone,water"} | keys
        )
        return run_local(
            asked, lambda parts, _: Devices({u: device(parts.config, u) for u in USERS}, edits)
        )

    return played


def config(tiny, name, **keys):
    flat = tiny.keys() | {
        "run.name": name, "run.rounds": 2, "partition.name": "natural", "round.clients": 2,
        "round.evaluate-every": 1, "round.evaluate-clients": 3, "data.client-holdout": 0.25,
        "data.unseen-clients": 0.22, "strategy.name": "dense",
        "data.test": str(tiny.root / "text" / "test.jsonl"),
    }  # fmt: skip
    return RunConfig.parse(flat | keys)


def evaluation_rows(run):
    return [r for r in read_lines(run / "ledger.jsonl") if r.get("vector") == "evaluation"]


def test_devices_measure_what_a_simulation_of_the_same_data_measures(tiny, play):
    simulated, run = run_local(config(tiny, "simulated")), play("on-devices")
    assert (run / "clients.jsonl").read_bytes() == (simulated / "clients.jsonl").read_bytes()
    both = [read_lines(folder / "metrics.jsonl") for folder in (simulated, run)]
    for mine, theirs in zip(*both, strict=True):
        assert mine["by-client"] == theirs["by-client"]
        assert mine["evaluation"] == theirs["evaluation"]
        assert "not-measured" not in theirs
    said = both[1][-1]["by-client"]
    assert (said["seen"]["clients"], said["unseen"]["clients"]) == (3, 1)
    # Four devices are sent the model three times; the training of both runs is the same.
    sent = evaluation_rows(run)
    assert [r["round"] for r in sent] == [0] * 4 + [1] * 4 + [2] * 4
    assert not evaluation_rows(simulated)
    assert both[1][-1]["down-bytes"] - both[0][-1]["down-bytes"] == sum(r["bytes"] for r in sent)
    trained = {r["client"] for r in read_lines(run / "ledger.jsonl") if r["direction"] == "up"}
    assert AWAY in {r["client"] for r in sent} - trained
    assert "clients that never train" in (run / "report.html").read_text()


def test_a_device_that_fails_is_late_or_lies_is_left_out_counted_and_named(play, said):
    def lie(**sums):
        return lambda m: [replace(m, sums=m.sums | sums)]

    edits = {
        "user-1": lambda m: [Measurement(m.client, error="RuntimeError: out of memory")],
        "user-2": lambda m: [],
        "user-4": lie(units=3),  # it holds out two
        "user-5": lie(loss_sum=float("nan")),
    }
    run = play("failing", edits, **{"round.evaluate-clients": 9, "run.rounds": 1})
    for record in read_lines(run / "metrics.jsonl"):
        assert record["not-measured"] == {
            "error": 1, "late": 1, "malformed": 1, "non-finite": 1
        }  # fmt: skip
        assert {kind: of["clients"] for kind, of in record["by-client"].items()} == {
            "seen": 1, "unseen": 1
        }  # fmt: skip
    assert {row["client"] for row in read_lines(run / "clients.jsonl")} == {AWAY, "user-3"}
    assert "client user-1, round 1: not measured (error): RuntimeError: out of memory" in said.text
    assert "client user-2, round 1: not measured (late)" in said.text
    assert "units is 3; expected 0 to 2" in said.text
    page = (run / "report.html").read_text()
    assert "4 devices gave no answer that counts" in page


def test_without_test_data_of_the_server_devices_alone_measure(play):
    run = play("no-test", **{"data.test": "", "run.rounds": 3, "round.evaluate-every": 2})
    records = read_lines(run / "metrics.jsonl")
    assert [r["round"] for r in records if "by-client" in r] == [0, 2, 3]
    assert not any(r.get("evaluation") for r in records)
    assert [r["round"] for r in evaluation_rows(run)] == [0] * 4 + [2] * 4 + [3] * 4
    page = (run / "report.html").read_text()
    assert "Accuracy by client" in page and "Macro F1, clients that may train (3)" in page


def test_the_last_evaluation_fits_into_the_budget_of_downloads(play):
    whole = play("whole", **{"run.rounds": 3, "round.evaluate-every": 0})
    size = evaluation_rows(whole)[0]["bytes"]
    # Four before round 1, two of a round, four at the end: one byte less has no room for a round.
    for most, rounds in ((10 * size, 1), (10 * size - 1, 0), (3 * size, 0)):
        run = play(f"budget-{most}", **{"round.max-down-bytes": most, "round.evaluate-every": 0})
        records, sent = read_lines(run / "metrics.jsonl"), read_lines(run / "ledger.jsonl")
        assert sum(r["bytes"] for r in sent if r["direction"] == "down") <= most
        assert records[-1]["round"] == rounds
        assert ("by-client" in records[-1]) == (most > 4 * size)


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_a_device_measures_is_what_the_server_would_save(tmp_path, name):
    device = toy_device({"a": np.ones(20, np.float32)}, tmp_path)
    loop = toy_loop(
        tmp_path / "run", Scripted(device, {"a": 1}), method=name, strategy={"fragments": 1}
    )
    serving = loop.served()
    assert served(device, serving.request).tolist() == serving.values.tolist()


def test_a_device_of_another_layout_measures_nothing(tmp_path):
    device = toy_device({"a": np.ones(20, np.float32)}, tmp_path)
    loop = toy_loop(tmp_path / "run", Scripted(device, {"a": 1}))
    request = replace(loop.served().request, jobs=(Job(0, "a"),))
    assert measure(device, request) == [Measurement("a")]  # a toy holds out nothing
    (refused,) = measure(device, replace(request, layout="ab" * 16))
    assert (refused.sums, refused.reason) == ({}, "foreign")


def test_a_device_trains_on_no_row_that_it_holds_out(tiny):
    data = config(tiny, "x").data
    texts = np.repeat(np.arange(10), 3)  # ten texts of three rows
    train, held = own_rows("user-1", texts, data)
    assert sorted([*train, *held]) == list(range(30))
    assert len(held) == 6 and not set(texts[held]) & set(texts[train])
    train, held = own_rows(AWAY, texts, data)
    assert (len(train), len(held)) == (0, 30)


def test_what_devices_cannot_measure_is_refused_by_its_key(tiny):
    node = {"data.train": "node", "data.labels": "3"}
    assert config(tiny, "x", **node)
    with pytest.raises(ConfigError, match="measured nowhere"):
        config(tiny, "x", **node, **{"round.evaluate-clients": 0})
    apart = {"data.client-holdout": 0.0, "data.unseen-clients": 0.0}
    with pytest.raises(ConfigError, match=r"nobody has examples.* set data\.client-holdout"):
        config(tiny, "x", **node, **apart, **{"data.test": ""})
