"""Real devices have the tier of the class that they say, as simulated ones have that of theirs."""

import json

import pytest

from fedllm_app.client.answer import answer
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import LocalTransport, run_local
from fedllm_app.run.metrics import read_lines

CLASSES = {"ann": "pc", "bob": "phone", "cid": "", "dan": "toaster"}


class Nodes(LocalTransport):
    """Every client is a device with data and a model of its own, in this process."""

    def __init__(self, parts, folder):
        super().__init__(parts, folder)
        root = parts.place.home.parent
        self._own = {}
        for client in CLASSES:
            words = {"client-id": client, "data-path": str(root / f"{client}.jsonl")}
            words |= {"model-path": parts.config.model.source, "home": str(root / client)}
            own = Parts(parts.config, Place.of(parts.config, words))
            self._own[client] = own, own.device(root / client)

    def clients(self):
        return {c: n for own, _ in self._own.values() for c, n in own.counts().items()}

    def profiles(self):
        return {client: {"class": name} for client, name in CLASSES.items() if name}

    def poll(self):
        waiting, self._waiting = self._waiting, []
        replies = []
        for request in waiting:
            for job in request.jobs:
                alone = type(request)(**{**vars(request), "jobs": (job,)})
                replies += answer(self._own[job.client][1], alone)
        assert not [reply.error for reply in replies if reply.error]
        return replies


def keys_of(tiny, folder, **more):
    for client in CLASSES:
        rows = [json.dumps({"text": f"the {word}"}) for word in ("sun", "sea", "rock")]
        (folder / f"{client}.jsonl").write_text("\n".join(rows) + "\n")
    return tiny.keys("next-token") | {
        "run.home": str(folder / "home"), "run.name": "nodes", "run.rounds": 1,
        "data.train": "node", "round.clients": 4, "round.evaluate-every": 0, "lora.rank": 4,
        "strategy.name": "hetlora", "strategy.tier-ranks": "1,4",
        "devices.fleet": "phone=0.5,pc=0.5",
    } | more  # fmt: skip


def test_the_tier_is_that_of_the_class_and_the_lowest_where_none_is_said(tiny, tmp_path):
    folder = run_local(RunConfig.parse(keys_of(tiny, tmp_path)), Nodes)
    lines = read_lines(folder / "ledger.jsonl")
    groups = {line["client"]: line["group"] for line in lines if line["direction"] == "up"}
    assert groups == {"ann": "rank-4", "bob": "rank-1", "cid": "rank-1", "dan": "rank-1"}
    assert "energy-j" not in read_lines(folder / "metrics.jsonl")[-1]  # nothing is simulated


def test_a_class_without_the_memory_is_refused_on_real_devices_too(tiny, tmp_path):
    words = "\n".join(
        f'[{key}]\nvalue = 1.0\nunit = "{unit}"\nkind = "assumed"\nsource = "a test"'
        for key, unit in {
            "flops": "FLOP/s", "memory": "B", "compute-power": "W", "radio-power": "W",
            "idle-power": "W", "down": "Mbps", "up": "Mbps", "latency": "ms", "available": "share",
        }.items()
    )  # fmt: skip
    (tmp_path / "mote.toml").write_text(f'name = "mote"\n{words}\n')
    more = {"devices.files": str(tmp_path / "mote.toml"), "devices.fleet": "mote=0.1,pc=0.9"}
    more["data.test"] = str(tmp_path / "ann.jsonl")
    with pytest.raises(ConfigError, match=r"without the memory for a job: mote needs"):
        run_local(RunConfig.parse(keys_of(tiny, tmp_path, **more)), Nodes)
