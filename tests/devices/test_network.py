"""The simulated clock by hand: 25 MB at 200 Mbps is one second."""

import logging
import math

import numpy as np
import pytest

from fedllm_app.core.errors import ConfigError
from fedllm_app.devices.network import (
    PRESETS,
    Link,
    Network,
    NetworkSettings,
    automatic_words,
    network_of,
    network_problems,
)

MB = 1_000_000


def read(path):
    return Network(NetworkSettings(preset="thesis", file=str(path)), 0).own


THESIS = NetworkSettings(preset="thesis")


def network(seed=0, **given):
    return Network(NetworkSettings(**({"preset": "thesis"} | given)), seed)


@pytest.mark.parametrize(
    ("link", "down", "up", "seconds"),
    [
        (Link(200, 20), 25 * MB, None, 1.0),
        (Link(200, 20), 25 * MB, 25 * MB, 11.0),
        (Link(200, 20), None, 25 * MB, 10.0),
        (Link(200, 12.5), 25 * MB, 25 * MB, 17.0),
        # Latency is charged once for every way that is taken.
        (Link(200, 20, 50), 25 * MB, None, 1.05),
        (Link(200, 20, 50), 25 * MB, 25 * MB, 11.1),
        (Link(200, 20, 50), 0, 0, 0.1),
        (Link(200, 20, 50), None, None, 0.0),
    ],
)
def test_seconds_by_hand(link, down, up, seconds):
    assert link.seconds(down, up) == pytest.approx(seconds, rel=1e-12)


def test_the_presets_are_those_of_the_thesis():
    assert PRESETS["thesis"] == (200, 20)
    slower = {name: down / up for name, (down, up) in PRESETS.items()}
    assert slower == {"thesis": 10, "thesis-1x": 1, "thesis-4x": 4, "thesis-16x": 16}


def test_a_preset_is_what_its_settings_become():
    resolved = NetworkSettings(preset="thesis-16x", latency_ms=30).resolved()
    assert (resolved.down_mbps, resolved.up_mbps, resolved.latency_ms) == (200, 12.5, 30)
    assert resolved.resolved() == resolved
    # What a run's config.toml holds can be read back.
    assert list(network_problems(resolved)) == []


def test_without_mbps_no_clock_runs():
    assert not NetworkSettings().on
    assert network_of(NetworkSettings(), 0) is None
    assert network_of(NetworkSettings(down_mbps=1, up_mbps=1), 0) is not None
    assert set(automatic_words(NetworkSettings())) == {
        "network.preset", "network.down-mbps", "network.up-mbps",
    }  # fmt: skip


def test_a_round_lasts_as_long_as_its_slowest_participant():
    links = network()
    # a: 1 + 1; b: 0.5 + 4; c sent nothing back.
    traffic = {
        "a": (25 * MB, int(2.5 * MB)),
        "b": (int(12.5 * MB), 10 * MB),
        "c": (75 * MB, None),
    }
    assert links.round_seconds(traffic) == 4.5
    assert links.round_seconds(dict(reversed(traffic.items()))) == 4.5
    assert links.round_seconds({"c": traffic["c"]}) == 3.0
    assert links.round_seconds({}) == 0.0


def test_without_a_spread_all_links_are_alike():
    assert network().link("a") == network(seed=1).link("b") == Link(200, 20, 0)


def test_a_spread_is_drawn_from_seed_and_client_alone():
    links = network(spread=0.5)
    assert links.link("a") == network(spread=0.5).link("a")
    assert links.link("a") != links.link("b")
    assert links.link("a") != network(seed=1, spread=0.5).link("a")


def test_a_spread_keeps_the_asymmetry_and_is_log_normal():
    links = [network(spread=0.5, latency_ms=7).link(str(i)) for i in range(2000)]
    assert {link.latency_ms for link in links} == {7}
    np.testing.assert_allclose([link.down_mbps / link.up_mbps for link in links], 10)
    logs = np.log([link.down_mbps / 200 for link in links])
    # Three standard errors: of the mean 0.5 / sqrt(2000), of the deviation 0.5 / sqrt(4000).
    assert abs(logs.mean()) < 3 * 0.5 / math.sqrt(2000)
    assert abs(logs.std() - 0.5) < 3 * 0.5 / math.sqrt(4000)


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "links.csv"
    path.write_text(text, encoding)
    return path


def test_a_file_has_single_clients_figures_and_the_keys_the_rest(tmp_path):
    text = 'client,down-mbps,up-mbps,latency-ms\nann,35.96,11.22,40\n"bo, b",,5,\n\n gus ,,,0\n'
    links = network(latency_ms=10, file=str(write(tmp_path, text)))
    assert links.link("ann") == Link(35.96, 11.22, 40)
    assert links.link("bo, b") == Link(200, 5, 10)
    assert links.link("gus") == Link(200, 20, 0)
    assert links.link("eve") == Link(200, 20, 10)


def test_a_file_may_lack_columns_and_figures_in_it_are_not_spread(tmp_path):
    # As a spreadsheet writes it: with a byte order mark.
    path = write(tmp_path, "up-mbps,client\n5,a\n", "utf-8-sig")
    links, drawn = network(spread=1, file=str(path)), network(spread=1)
    assert links.link("a") == Link(drawn.link("a").down_mbps, 5)
    assert links.link("b") == drawn.link("b")


WRONG = {
    "client,down\na,1\n": "columns ['client', 'down']; expected client and any of down-mbps, ",
    "client\na\n": "columns ['client']; expected",
    "down-mbps,up-mbps\n1,2\n": "columns ['down-mbps', 'up-mbps']; expected client",
    "": "columns []; expected client",
    "client,up-mbps,up-mbps\na,1,2\n": "columns ['client', 'up-mbps', 'up-mbps']; expected",
    "client,up-mbps\na,fast\n": "line 2: up-mbps is 'fast'; expected a number, above 0",
    "client,up-mbps\na,0\n": "line 2: up-mbps is '0'; expected a number, above 0",
    "client,up-mbps\na,inf\n": "line 2: up-mbps is 'inf'; expected a number, above 0",
    "client,latency-ms\na,-1\n": "line 2: latency-ms is '-1'; expected a number, 0 or more",
    "client,up-mbps\na,1\na,2\n": "line 3: client 'a' is there twice",
    "client,up-mbps\n,1\n": "line 2: client is ''; expected a name",
    "client,up-mbps\na,1,2\n": "line 2: 3 cells; expected 2: client, up-mbps",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_refused_with_its_line(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert f"network.file {str(path)!r}" in str(caught.value)
    assert WRONG[text] in str(caught.value)


def test_mistakes_of_a_file_come_at_once_but_not_thousands(tmp_path):
    lines = "".join(f"{i},x\n" for i in range(500))
    with pytest.raises(ConfigError) as caught:
        read(write(tmp_path, "client,up-mbps\n" + lines))
    assert len(str(caught.value).splitlines()) == 11
    assert "490 more mistakes" in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none.csv' cannot be read"):
        read(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"client,up-mbps\n\xff,1\n")
    with pytest.raises(ConfigError, match=r"b.csv' cannot be read"):
        read(tmp_path / "b.csv")


def test_names_that_no_client_has_are_said(tmp_path, caplog):
    links = network(file=str(write(tmp_path, "client,up-mbps\na,1\nAnn,2\n")))
    with caplog.at_level(logging.WARNING, logger="fedllm"):
        links.warn_of_strangers({"a": 3, "ann": 4})
    assert "1 clients that are not in the data: Ann" in caplog.text
