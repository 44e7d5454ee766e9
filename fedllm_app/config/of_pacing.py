"""What is wrong between the pacing of rounds and other keys; one sentence for each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedllm_app.client.settings import STREAM
from fedllm_app.core.settings import kebab
from fedllm_app.data.partition import TO_CLIENTS
from fedllm_app.data.settings import NODE
from fedllm_app.devices.compute import compute_problems
from fedllm_app.devices.fleet import DeviceSettings, device_problems
from fedllm_app.run.settings import RoundSettings

if TYPE_CHECKING:
    from fedllm_app.config import RunConfig

READ_BY = {
    "over_select": "deadline", "deadline_s": "deadline",
    "concurrency": "async", "goal": "async", "most_stale": "async",
}  # fmt: skip


def of_pacing(c: "RunConfig") -> Iterator[str]:
    """Yield what is wrong with who is asked, when the server steps, and the simulated clock."""
    defaults = RoundSettings()
    for name, reader in READ_BY.items():
        if getattr(c.round, name) != getattr(defaults, name) and c.round.pacing != reader:
            yield (
                f"round.{kebab(name)} is {getattr(c.round, name)!r}, which round.pacing = "
                f"{c.round.pacing!r} does not read; expected {getattr(defaults, name)!r}, or "
                f"round.pacing = {reader!r}"
            )
    if c.round.shared:
        if c.data.train == NODE:
            yield (
                f"round.clients is {c.round.clients!r} with data.train = 'node', where nobody "
                "counts the devices before they come; expected a number"
            )
        if c.round.pacing != "sync":
            yield (
                f"round.clients is {c.round.clients!r} with round.pacing = {c.round.pacing!r}; "
                "expected a number, or round.pacing = 'sync'"
            )
        yield from _of_clock(c)
        return
    asked = c.round.resolved("")
    key, most = "round.clients", asked.cohort
    if asked.pacing == "async":
        key, most = "round.goal", asked.goal
        yield from _of_async(c, asked)
    if asked.min_replies > most:
        yield f"round.min-replies is {asked.min_replies}; expected at most {key} = {most}"
    dealt = c.data.train != NODE and c.partition.name in TO_CLIENTS
    if dealt and asked.at_once > c.partition.clients:
        named = {
            "sync": f"round.clients is {asked.clients}",
            "deadline": f"round.over-select is {asked.over_select:g}, by which {asked.at_once} "
            f"clients are asked for round.clients = {asked.clients}",
            "async": f"round.concurrency is {asked.concurrency}",
        }[asked.pacing]
        yield f"{named}; expected at most partition.clients = {c.partition.clients}"
    yield from _of_clock(c)


def _of_async(c: "RunConfig", asked: RoundSettings) -> Iterator[str]:
    if asked.goal > asked.concurrency:
        yield (
            f"round.goal is {asked.goal}; expected at most round.concurrency = "
            f"{asked.concurrency}, the clients at work"
        )
    if asked.aggregate != "mean":
        yield (
            f"round.aggregate is {asked.aggregate!r}, where all replies count alike, with "
            "round.pacing = 'async', where stale ones count less; expected 'mean'"
        )
    if c.strategy.down_history:
        yield (
            f"strategy.down-history is {c.strategy.down_history} with round.pacing = 'async', "
            "where a job is not of one round; expected 0"
        )


def _of_clock(c: "RunConfig") -> Iterator[str]:
    """Yield what is wrong with the simulated clock and with times that are held against it."""
    node = c.data.train == NODE
    simulated = c.devices.on and not node
    yield from compute_problems(c.compute, simulated)
    yield from device_problems(c.devices)
    clock = c.network.on or c.compute.on or simulated
    if c.round.max_simulated_s and not clock:
        yield (
            f"round.max-simulated-s is {c.round.max_simulated_s:g} and no clock runs; set "
            "network.preset, or network.down-mbps and network.up-mbps, compute.step-s, or "
            "devices.fleet"
        )
    if c.round.max_energy_j and not simulated:
        yield (
            f"round.max-energy-j is {c.round.max_energy_j:g} and no device is simulated; set "
            "devices.fleet"
        )
    if c.devices.file and node:
        yield (
            f"devices.file is {c.devices.file!r} with data.train = 'node'; expected \"\": a real "
            "device says its class as device-class in its node-config"
        )
    yield from _of_tiers(c)
    yield from _of_balance(c)
    if c.devices.available and (node or not c.devices.on):
        why = "a real device is there when it connects" if node else "no device is simulated"
        yield f"devices.available is true and {why}; expected false, or a simulation with fleet"
    if c.compute.on and node:
        yield (
            f"compute.step-s is {c.compute.step_s:g} with data.train = 'node'; expected 0, since "
            "devices take the time that they take"
        )
    elif clock and node and c.round.pacing != "sync":
        yield (
            f"round.pacing is {c.round.pacing!r} with data.train = 'node' and links of network.*; "
            "expected no network, since devices are late by the wall-clock"
        )
    if not (clock and not node) and c.round.deadline_s > c.round.timeout_s:
        yield (
            f"round.deadline-s is {c.round.deadline_s:g}; expected at most round.timeout-s = "
            f"{c.round.timeout_s:g}, since no clock is simulated"
        )


def _of_tiers(c: "RunConfig") -> Iterator[str]:
    """Yield why local steps or batches cannot follow the class of a device."""
    devices = c.devices
    if devices.tiered and not devices.on:
        name = "tier-steps" if devices.tier_steps else "tier-batches"
        yield (
            f"devices.{name} is {devices.tier_steps or devices.tier_batches!r} and no classes of "
            'devices are named; expected "", or set devices.fleet, such as phone=0.6,pc=0.4'
        )
    if devices.tier_steps and devices.balance:
        yield (
            f"devices.tier-steps is {devices.tier_steps!r} with devices.balance = true, which sets "
            'the steps itself; expected one of the two: "", or devices.balance = false'
        )
    if devices.tiered and c.reading == STREAM:
        most, own = devices.most_rows(c.client.steps, c.client.batch), c.client
        if most > own.steps * own.batch:
            yield (
                f"devices.tier-steps and devices.tier-batches ask for up to {most} rows of a "
                f"client's stream; expected at most client.steps times client.batch = "
                f"{own.steps * own.batch}"
            )


def _of_balance(c: "RunConfig") -> Iterator[str]:
    """Yield why local steps cannot be divided by device."""
    if not c.devices.balance:
        if c.devices.balance_most != DeviceSettings().balance_most:
            yield (
                f"devices.balance-most is {c.devices.balance_most:g} with devices.balance = false, "
                "which divides nothing; expected 4, or devices.balance = true"
            )
        if c.devices.balance_density != 1:
            yield (
                f"devices.balance-density is {c.devices.balance_density:g} with devices.balance = "
                "false, which lowers nothing; expected 1, or devices.balance = true"
            )
        return
    if c.data.train == NODE:
        yield (
            "devices.balance is true with data.train = 'node'; expected false, since nobody knows "
            "how long a real device takes"
        )
    elif not c.devices.on:
        yield "devices.balance is true and no device is simulated; set devices.fleet"
    if not c.client.steps:
        yield (
            "devices.balance is true with client.steps = 0; expected the local steps of a client "
            "if all were alike, such as 16"
        )
    if c.round.pacing == "async":
        yield (
            "devices.balance is true with round.pacing = 'async', where nobody waits for the "
            "others; expected 'sync' or 'deadline'"
        )
