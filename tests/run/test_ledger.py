"""The ledger adds up, does not depend on the order of replies, and goes on where it was cut."""

import itertools
from pathlib import Path

import pytest

from fedllm_app.core.errors import CheckpointError
from fedllm_app.run.ledger import EVALUATION, Ledger, Totals
from fedllm_app.run.metrics import read_lines

BASE = 1000
# (client, direction, header, positions, values, accepted): dense is 400 for each.
ROUND = [
    ("a", "down", 10, 5, 100, True),
    ("b", "down", 10, 5, 100, True),
    ("a", "up", 12, 3, 25, True),
    ("b", "up", 12, 4, 25, False),
]


def play(ledger: Ledger, round: int, order: tuple[int, ...] = (0, 1, 2, 3)) -> None:
    for i in order:
        client, direction, header, positions, values, accepted = ROUND[i]
        ledger.record(
            round, client, "all", direction, header, positions, values, 400, accepted=accepted
        )  # fmt: skip
    ledger.end_round()


def test_a_line_has_the_parts_their_sum_and_what_dense_costs(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.jsonl")
    play(ledger, 1)
    ledger.close()
    assert read_lines(tmp_path / "l.jsonl")[-1] == {
        "round": 1,
        "direction": "up",
        "client": "b",
        "group": "all",
        "header": 12,
        "positions": 4,
        "values": 25,
        "bytes": 41,
        "dense-bytes": 400,
        "accepted": False,
    }


def test_totals_are_the_sums_of_the_lines_dropped_replies_too(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.jsonl", base_client_bytes=BASE)
    play(ledger, 1)
    play(ledger, 2)
    ledger.close()
    # Up 40 + 41 and down 115 + 115 a round; two clients took the base once.
    expected = Totals(162, 460, 1600, 1600, 2000)
    assert ledger.totals == expected == Totals.of(tmp_path / "l.jsonl")
    assert Totals.from_dict(expected.to_dict()) == expected


def test_the_base_has_one_row_for_the_clients_that_are_new(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.jsonl", base_client_bytes=BASE)
    play(ledger, 1)
    play(ledger, 2)
    ledger.record(3, "c", "all", "down", 10, 5, 100, 400)
    ledger.close()
    rows = [r for r in read_lines(tmp_path / "l.jsonl") if r["direction"] == "base"]
    assert [(r["round"], r["clients"], r["bytes"]) for r in rows] == [(1, 2, 2000), (3, 1, 1000)]


def test_the_file_does_not_depend_on_the_order_of_replies(tmp_path: Path) -> None:
    seen = set()
    for order in itertools.permutations(range(4)):
        path = tmp_path / f"{order}.jsonl"
        ledger = Ledger(path, base_client_bytes=BASE)
        play(ledger, 1, order)
        ledger.close()
        seen.add(path.read_bytes())
    assert len(seen) == 1


@pytest.mark.parametrize("torn", [b"", b'{"round":3,"direc'])
def test_a_resumed_ledger_equals_one_never_killed(tmp_path: Path, torn: bytes) -> None:
    whole = Ledger(tmp_path / "whole.jsonl", base_client_bytes=BASE)
    for round in (1, 2, 3):
        play(whole, round)
    whole.close()

    path = tmp_path / "killed.jsonl"
    killed = Ledger(path, base_client_bytes=BASE)
    play(killed, 1)
    killed.sync()
    saved = killed.totals.to_dict()
    play(killed, 2)
    killed.close()
    path.write_bytes(path.read_bytes() + torn)

    resumed = Ledger.resume(path, 1, Totals.from_dict(saved), base_client_bytes=BASE)
    play(resumed, 2)
    play(resumed, 3)
    resumed.close()
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert resumed.totals == whole.totals


def test_traffic_of_the_open_round_by_client(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.jsonl", base_client_bytes=BASE)
    ledger.record(1, "a", "all", "down", 1, 2, 7, 40)
    ledger.record(1, "b", "all", "down", 1, 2, 7, 40)
    ledger.record(1, "a", "all", "up", 1, 2, 3, 40, accepted=False)
    # A reply to an earlier round came twice as late: of one with a part in this round, and not.
    ledger.record(1, "a", "all", "up", 1, 0, 3, 40, accepted=False)
    ledger.record(1, "c", "all", "up", 1, 0, 3, 40, accepted=False)
    # A model that is sent to be measured is no part of the round's jobs, and costs its bytes.
    ledger.record(1, "b", "all", "down", 1, 2, 7, 40, vector=EVALUATION)
    assert ledger.traffic() == {"a": (10, 10), "b": (10, None)}
    assert ledger.totals.down_bytes == 30
    ledger.end_round()
    assert ledger.traffic() == {}
    ledger.close()


def test_a_ledger_that_was_changed_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.jsonl")
    play(ledger, 1)
    ledger.close()
    (tmp_path / "l.jsonl").write_text("")
    with pytest.raises(CheckpointError, match=r"sums to .*'up_bytes': 0.*'up_bytes': 81"):
        Ledger.resume(tmp_path / "l.jsonl", 1, ledger.totals)


def test_unknown_names_in_saved_totals_are_refused() -> None:
    with pytest.raises(CheckpointError, match="sideways"):
        Totals.from_dict({"sideways": 1})
