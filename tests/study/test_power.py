"""Watts from the counters that a system has, as files."""

import os
from threading import Event

import pytest

from fedllm_app.study import power
from fedllm_app.study.power import drawn, joules, used_watts


def zone(root, folder, name, microjoules, most=100_000_000):
    """Write one of Linux's zones of power."""
    at = root / folder
    at.mkdir(parents=True, exist_ok=True)
    for file, text in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (at / "new").write_text(f"{text}\n")
        os.replace(at / "new", at / file)


@pytest.fixture
def zones(tmp_path, monkeypatch):
    monkeypatch.setattr(power, "ENERGY", tmp_path)
    return tmp_path


def test_packages_are_counted_once(zones):
    zone(zones, "intel-rapl:0", "package-0", 5_000_000)
    zone(zones, "intel-rapl:0:0", "core", 3_000_000)
    zone(zones, "intel-rapl:1", "psys", 9_000_000)
    zone(zones, "intel-rapl-mmio:0", "package-0", 5_000_000)
    zone(zones, "intel-rapl:2", "package-1", 2_000_000)
    assert joules() == {"package-0": (5.0, 100.0), "package-1": (2.0, 100.0)}


def test_a_zone_that_cannot_be_read_is_left_out(zones):
    zone(zones, "intel-rapl:0", "package-0", "")
    zone(zones, "intel-rapl:1", "package-1", 1_000_000)
    (zones / "intel-rapl:2").mkdir()
    assert joules().keys() == {"package-1"}


def test_watts_are_joules_over_seconds_and_a_counter_may_begin_anew():
    before = {"a": (5.0, 100.0), "b": (90.0, 100.0), "gone": (1.0, 100.0), "still": (1.0, 100.0)}
    after = {"a": (9.0, 100.0), "b": (10.0, 100.0), "still": (1.0, 100.0)}
    assert used_watts(before, after, 2.0) == {"a": 2.0, "b": 10.0}


def test_what_is_drawn_is_that_of_the_time_in_between(zones):
    zone(zones, "intel-rapl:0", "package-0", 1_000_000)
    with drawn(gpu=False) as found:
        zone(zones, "intel-rapl:0", "package-0", 4_000_000)
    assert found.watts.keys() == {"package-0"} and found.total > 0


def test_a_system_that_reports_nothing_has_no_watts(zones):
    with drawn(gpu=False) as found:
        pass
    assert found.watts == {} and found.total == 0


def test_readings_of_a_gpu_are_averaged_and_end_where_it_reports_nothing(zones, monkeypatch):
    # A stand-in for the driver: there is no GPU where tests run.
    readings, read_all = iter([200_000.0, 210_000.0]), Event()

    def driver():
        try:
            return next(readings)
        except StopIteration:
            read_all.set()
            raise RuntimeError("no driver") from None

    monkeypatch.setattr(power.torch.cuda, "power_draw", driver)
    monkeypatch.setattr(power, "EVERY_S", 0.001)
    with drawn(gpu=True) as found:
        assert read_all.wait(5)
    assert found.watts == {"GPU": 205.0}
