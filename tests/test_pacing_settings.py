"""Settings of pacing and of simulated speeds that make no sense together are refused, in a word."""

import pytest

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError

ASYNC = {"round.pacing": "async"}
DEADLINE = {"round.pacing": "deadline"}
NODE = {"data.train": "node", "data.labels": "2", "model.source": "/m"}
# Keys, what is said of them, and what mends it.
AT_ODDS = {
    "a key of another pacing": (
        {"round.goal": 3},
        "round.goal is 3, which round.pacing = 'sync' does not read; expected 0, or round.pacing = "
        "'async'",
        ASYNC,
    ),
    "a deadline of no deadline": (
        ASYNC | {"round.deadline-s": 9.0},
        "round.deadline-s is 9.0, which round.pacing = 'async' does not read",
        DEADLINE,
    ),
    "a goal that nobody reaches at once": (
        ASYNC | {"round.concurrency": 4, "round.goal": 5},
        "round.goal is 5; expected at most round.concurrency = 4, the clients at work",
        {"round.concurrency": 5},
    ),
    "more replies than the goal": (
        ASYNC | {"round.min-replies": 4, "round.goal": 3},
        "round.min-replies is 4; expected at most round.goal = 3",
        {"round.goal": 4},
    ),
    "a median of unequal replies": (
        ASYNC | {"round.aggregate": "median", "strategy.name": "dense"},
        "round.aggregate is 'median', where all replies count alike, with round.pacing = 'async'",
        {"round.aggregate": "mean"},
    ),
    "a history of rounds": (
        ASYNC | {"strategy.down-history": 4, "strategy.down": "change", "run.name": "mine",
                 "wire.down-values": "grid"},
        "strategy.down-history is 4 with round.pacing = 'async'",
        {"strategy.down-history": 0},
    ),
    "more are asked than there are": (
        DEADLINE | {"round.clients": 8, "partition.name": "iid", "partition.clients": 8},
        "round.over-select is 1.3, by which 11 clients are asked for round.clients = 8; expected "
        "at most partition.clients = 8",
        {"round.over-select": 1.0},
    ),
    "more at work than there are": (
        ASYNC | {"round.concurrency": 9, "partition.name": "iid", "partition.clients": 8},
        "round.concurrency is 9; expected at most partition.clients = 8",
        {"round.concurrency": 8},
    ),
    "a spread of no speed": (
        {"compute.spread": 0.5},
        "compute.spread is 0.5 with compute.step-s = 0",
        {"compute.step-s": 1.0},
    ),
    "two spreads": (
        {"compute.step-s": 1.0, "compute.spread": 0.5, "compute.ratio": 4.0},
        "compute.spread is 0.5 beside compute.ratio = 4",
        {"compute.spread": 0.0},
    ),
    "a relative file of speeds": (
        {"compute.step-s": 1.0, "compute.file": "speeds.csv"},
        "compute.file is 'speeds.csv'; expected an absolute path",
        {"compute.file": "/speeds.csv"},
    ),
    "simulated speeds of devices": (
        NODE | {"compute.step-s": 1.0},
        "compute.step-s is 1 with data.train = 'node'",
        {"compute.step-s": 0.0},
    ),
    "two clocks": (
        NODE | DEADLINE | {"network.preset": "thesis"},
        "round.pacing is 'deadline' with data.train = 'node' and links of network.*",
        {"network.preset": ""},
    ),
    "a deadline after the time-out": (
        DEADLINE | {"round.deadline-s": 900.0},
        "round.deadline-s is 900; expected at most round.timeout-s = 600",
        {"compute.step-s": 1.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", AT_ODDS)
def test_keys_at_odds(case):
    given, message, cure = AT_ODDS[case]
    with pytest.raises(ConfigError) as refused:
        RunConfig.parse(given)
    (line,) = str(refused.value).splitlines()
    assert message in line
    RunConfig.parse(given | cure)


def test_seconds_of_steps_alone_are_a_clock():
    RunConfig.parse({"compute.step-s": 0.5, "round.max-simulated-s": 60.0})


def test_automatic_values_are_those_of_a_sync_run_of_as_many_clients():
    found = RunConfig.parse(ASYNC | {"round.clients": 7}).resolved().round
    assert (found.concurrency, found.goal) == (7, 4)
    assert RunConfig.parse({"round.clients": 7}).resolved().round.goal == 0


@pytest.mark.parametrize(("clients", "factor", "asked"), [(10, 1.3, 13), (5, 1.1, 6), (3, 1.0, 3)])
def test_over_selection_is_rounded_up_and_exact(clients, factor, asked):
    given = DEADLINE | {"round.clients": clients, "round.over-select": factor}
    assert RunConfig.parse(given).round.at_once == asked


def test_a_share_is_a_number_once_the_clients_are_counted():
    asked = RunConfig.parse({"round.clients": 0.01, "partition.name": "natural"}).round
    assert [asked.sized(n).cohort for n in (10, 149, 151, 100_000)] == [1, 1, 2, 1000]
    assert RunConfig.parse({"round.clients": 7}).round.sized(3).cohort == 7
    with pytest.raises(ConfigError, match="a share of clients that are not counted here"):
        _ = asked.cohort


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"data.train": "node", "data.labels": "3"}, "where nobody counts the devices"),
        ({"round.pacing": "deadline"}, "expected a number, or round.pacing = 'sync'"),
        ({"round.aggregate": "median"}, "expected a number, or round.aggregate = 'mean'"),
    ],
)
def test_a_share_is_refused_where_nobody_counts(keys, said):
    with pytest.raises(ConfigError, match=said):
        RunConfig.parse({"round.clients": 0.5, "strategy.name": "dense"} | keys)
