"""Domains: dealt out by Dirichlet, and measured one by one."""

import numpy as np
import pytest

from fedllm_app.config import RunConfig
from fedllm_app.config.inputs import input_problems
from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.data.partition import PartitionSettings, partition
from fedllm_app.data.table import Table
from fedllm_app.data.users import DOMAIN, by_domain


def table(domains):
    import pyarrow

    return Table(pyarrow.table({"domain": pyarrow.array(domains, pyarrow.string())}))


def test_a_dirichlet_partition_divides_domains_where_there_are_no_labels():
    rows = table(["sky", "sea"] * 100)
    dealt = partition(rows, PartitionSettings(name="dirichlet", clients=4, alpha=0.05), 0)
    assert sorted(dealt.order.tolist()) == list(range(200))
    shares = [np.mean(dealt.rows(c) % 2) for c in range(4) if len(dealt.rows(c))]
    assert max(shares) > 0.9 or min(shares) < 0.1  # clients differ in what they have
    with pytest.raises(DataError, match=r"no column that data\.label-column names"):
        partition(rows, PartitionSettings(name="dirichlet", clients=4, by="label"), 0)


def test_what_is_evaluated_is_told_by_domain():
    rows = table(["sky", "sea", None, "sky", "sea"])
    found = by_domain(rows, rows, np.array([0, 2, 3, 4]))[DOMAIN]
    assert [(name, of.tolist()) for name, of in found.chosen(9)] == [("sea", [4]), ("sky", [0, 3])]


def test_a_run_measures_every_domain_with_their_spread(tiny):
    from fedllm_app.play import run_local
    from fedllm_app.run.metrics import read_lines

    keys = tiny.keys("instruction") | {
        "run.name": "domains", "run.rounds": 1, "partition.name": "dirichlet",
        "partition.clients": 3, "round.clients": 1, "round.evaluate-clients": 9,
        "task.max-tokens": 32,
    }  # fmt: skip
    folder = run_local(RunConfig.parse(keys))
    spread = read_lines(folder / "metrics.jsonl")[-1]["by-client"][DOMAIN]
    assert spread["clients"] == 3
    assert spread["loss"].keys() == {"mean", "weighted", "p10", "p90"}
    rows = [r for r in read_lines(folder / "clients.jsonl") if r["clients"] == DOMAIN]
    assert {row["client"] for row in rows} == {"sky", "water", "stone"}
    assert "domains (3)" in (folder / "report.html").read_text("utf-8")


def test_a_column_of_domains_that_is_missing_is_told_before_anything_loads(tiny):
    keys = tiny.keys("instruction") | {"partition.name": "dirichlet", "data.domain-column": "site"}
    assert any("data.domain-column 'site'" in p for p in input_problems(RunConfig.parse(keys)))
    with pytest.raises(ConfigError, match=r"partition\.by is 'label', which needs labels"):
        RunConfig.parse(keys | {"partition.by": "label"})
