"""The study of wrong clients: who is drawn sends what it should not, in legal bytes."""

import pytest

from benchmarks.studies.attacks import DEFENCES, HEADS, ONCE, Attacked, Point, lines, points
from fedllm_app.config import RunConfig
from fedllm_app.play import run_local
from fedllm_app.run.metrics import read_lines

RATES = {"floss": {"client.lr": 0.01, "server.lr": 0.01}}
PLACES = {"data.train": "/data", "model.source": "/model"}


def test_every_run_is_a_legal_one_of_its_own(tmp_path):
    cells = [point.cell(RATES, PLACES, 40) for point in points()]
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        cell.config(tmp_path)


@pytest.mark.parametrize("attack", ["scaled", "random"])
def test_the_drawn_clients_alone_are_above_the_bound(tiny, attack):
    keys = tiny.keys() | {
        "partition.name": "iid", "partition.clients": 8, "round.clients": 6, "run.rounds": 2,
        "lora.rank": 2, "wire.up-values": "q4", "run.name": f"attack-{attack}",
        "strategy.d-up": 0.5,
    }  # fmt: skip
    point, drawn = Point(attack, 2, "clip"), []

    class Watched(Attacked):
        def poll(self):
            drawn.append(sorted(self._wrong))
            return super().poll()

    folder = run_local(RunConfig.parse(keys), lambda parts, path: Watched(parts, path, point))
    rounds = [r for r in read_lines(folder / "metrics.jsonl") if "clients" in r]
    assert [r["clients"] for r in rounds] == [6, 6]  # none was refused
    for record, wrong in zip(rounds, drawn, strict=True):
        clipped = [client for client, _ in record["clipped-clients"]]
        # Ten times one's own norm may be less than four times that of the others.
        assert clipped == wrong if attack == "scaled" else set(clipped) <= set(wrong)


def test_the_table_joins_seeds_and_leaves_out_what_was_not_played():
    rows = [
        {"attack": "none", "attackers": 0, "defence": "off", "score": score}
        for score in (0.4, 0.5, 0.6)
    ] + [{"attack": "once", "attackers": 1, "defence": "clip", "score": 0.45}]
    head, none, once = lines(rows)
    assert len(head) == 2 + len(DEFENCES) == 2 + len(HEADS)
    assert none == ["0", "none", "0.500 (0.400, 0.500, 0.600)", "", "", ""]
    assert once == ["1", f"one reply of ones, in round {ONCE} alone", "", "0.450", "", ""]
