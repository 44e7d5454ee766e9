"""Metrics by client of real tiny runs: rows, spread, page, and the same bytes after a kill."""

import json

import numpy as np
import pytest

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.measuring import by_client
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local
from fedllm_app.run.metrics import read_lines


def config(tiny, name, task="sequence-classification", **keys):
    flat = tiny.keys(task) | {
        "run.name": name, "run.rounds": 2, "run.checkpoint-every": 1, "partition.name": "natural",
        "round.clients": 0.4, "round.evaluate-every": 1, "round.evaluate-clients": 3,
        "data.client-holdout": 0.25, "data.unseen-clients": 0.2, "strategy.name": "dense",
    }  # fmt: skip
    return RunConfig.parse(flat | keys)


def test_clients_are_measured_one_by_one_and_a_killed_run_leaves_the_same_bytes(tiny):
    run = run_local(config(tiny, "by-client"))
    rows, records = read_lines(run / "clients.jsonl"), read_lines(run / "metrics.jsonl")
    assert [r["round"] for r in records] == [0, 1, 2]
    trained = {r["client"] for r in read_lines(run / "ledger.jsonl") if r["direction"] == "up"}
    assert [r["clients"] for r in records[1:]] == [2, 2]  # 0.4 of the five that may train
    for record in records:
        own = [row for row in rows if row["round"] == record["round"]]
        assert {kind: sum(r["clients"] == kind for r in own) for kind in ("seen", "unseen")} == {
            "seen": 3, "unseen": 1
        }  # fmt: skip
        assert not trained & {row["client"] for row in own if row["clients"] == "unseen"}
        # By hand: every client alike, and every example alike.
        seen = [row for row in own if row["clients"] == "seen"]
        said = record["by-client"]["seen"]
        for metric in ("accuracy", "loss"):
            each = np.array([row[metric] for row in seen])
            units = np.array([row["examples"] for row in seen])
            assert said[metric]["mean"] == pytest.approx(each.mean())
            assert said[metric]["weighted"] == pytest.approx((each * units).sum() / units.sum())
            assert said[metric]["p10"] == pytest.approx(np.percentile(each, 10))
            assert said[metric]["p90"] == pytest.approx(np.percentile(each, 90))
    page = (run / "report.html").read_text()
    assert "clients that never train" in page
    assert "10th percentile" in page

    # Killed between an evaluation and its checkpoint: its lines are cut off and written again.
    killed = run_local(config(tiny, "by-client-killed", **{"run.rounds": 1}))
    (killed / "clients.jsonl").open("a").write(json.dumps({"round": 2, "client": "lost"}) + "\n")
    run_local(config(tiny, "by-client-killed"))
    for file in ("clients.jsonl", "metrics.jsonl", "ledger.jsonl"):
        assert (killed / file).read_bytes() == (run / file).read_bytes(), file


def test_users_of_test_examples_are_seen_where_they_may_train(tiny):
    test = str(tiny.root / "text" / "test.jsonl")
    apart = {"data.client-holdout": 0.0, "data.unseen-clients": 0.0}
    asked = config(tiny, "by-user", **apart, **{"data.test": test})
    parts = Parts(asked, Place.of(asked))
    tallies = by_client(parts, parts.initial, 10)
    assert [client for client, _ in tallies["seen"]] == [f"user-{i}" for i in range(6)]
    assert not tallies["unseen"]
    assert sum(tally["units"] for _, tally in tallies["seen"]) == 12


@pytest.mark.parametrize("task", ["next-token", "pretraining", "image-classification"])
def test_every_task_is_measured_by_client(tiny, task):
    keys = {"client.steps": 1, "task.max-tokens": 4} if task == "pretraining" else {}
    asked = config(tiny, f"by-{task}", task, **keys, **{"partition.name": "iid"})
    asked = RunConfig.parse(asked.flat() | {"partition.clients": 3})
    parts = Parts(asked, Place.of(asked))
    tallies = by_client(parts, parts.initial, 10)
    assert any(tally["units"] for measured in tallies.values() for _, tally in measured)


def test_what_cannot_be_measured_is_refused_by_its_key(tiny):
    with pytest.raises(ConfigError, match="measured nowhere"):
        config(tiny, "x", **{"round.evaluate-clients": 0, "data.unseen-clients": 0.0})
    nothing = {"data.client-holdout": 0.0, "data.unseen-clients": 0.0}
    bare = tiny.root / "text" / "no-users.jsonl"
    bare.write_text('{"text": "sun", "label": "sky"}\n')
    asked = config(tiny, "x", **nothing, **{"data.test": str(bare)})
    parts = Parts(asked, Place.of(asked))
    with pytest.raises(DataError, match="no client has an example to be measured on"):
        by_client(parts, parts.initial, 10)
