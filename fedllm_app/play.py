"""A run from its folder to its last round: opened under a lock, and played by the loop."""

import hashlib
import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from time import strftime

from fedllm_app.client.answer import answer
from fedllm_app.client.measure import measure
from fedllm_app.client.settings import STREAM, WRAP
from fedllm_app.client.train import Device
from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.core.counts import eligible
from fedllm_app.core.errors import CheckpointError, check_room
from fedllm_app.core.files import replacing
from fedllm_app.core.job import Measurement, Profile, Reply, Request
from fedllm_app.core.schedule import factor
from fedllm_app.core.state import RunState
from fedllm_app.data.digests import data_digests
from fedllm_app.data.settings import NODE
from fedllm_app.devices.available import everybody, present_of
from fedllm_app.devices.fleet import Fleet
from fedllm_app.devices.network import Network, network_of
from fedllm_app.ending import finish_run
from fedllm_app.fitting import Fitting, refuse_too_small
from fedllm_app.measuring import evaluator_of
from fedllm_app.models.vocabulary import tokenizer_digest
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.run.begun import check_same
from fedllm_app.run.checkpoint import latest_checkpoint, locked, newest_whole, set_aside
from fedllm_app.run.note import told
from fedllm_app.run.record import Recorder
from fedllm_app.server.balance import balance_of
from fedllm_app.server.counting import Counting
from fedllm_app.server.guard import Guard
from fedllm_app.server.limits import Limits
from fedllm_app.server.loop import Loop
from fedllm_app.server.methods import method_of
from fedllm_app.server.methods.shares import tiers_of, tiers_told
from fedllm_app.server.optimizer import ServerOptimizer
from fedllm_app.server.pacing import pacing_of
from fedllm_app.server.planning import Planner
from fedllm_app.server.reading import Epochs, Reading, Streams
from fedllm_app.server.transport import Transport

log = logging.getLogger("fedllm")

CHANGEABLE = (
    "run.rounds", "run.checkpoint-every", "run.verbose", "round.evaluate-every",
    "round.give-up-after",
)  # fmt: skip
# Where it is automatic it hangs on run.rounds: it stays what it became when the run began.
AT_FIRST = ("strategy.decay",)


@contextmanager
def opened_run(config: RunConfig) -> Iterator[tuple[RunConfig, Path]]:
    """Yield the resolved configuration and the run's folder, held under a lock.

    A run that ends before its first checkpoint leaves no folder, if none was there before.

    Raises
    ------
    CheckpointError
        If the folder is in use, or holds a run of another configuration.
    """
    method = config.strategy.name.replace(":", "-")
    name = config.run.name or strftime(f"{method}-%Y%m%d-%H%M%S")
    asked, config = config.flat(), config.resolved()
    config = config.model_copy(update={"run": config.run.model_copy(update={"name": name})})
    folder = Place.of(config).home / "runs" / name
    before_us = folder.exists()
    with locked(folder), _no_empty_folder(folder, before_us):
        file = folder / "config.toml"
        # One without a checkpoint begins anew, and what kept it from beginning may be mended.
        if file.exists() and latest_checkpoint(folder / "checkpoints"):
            # A run of an earlier version lacks later keys: it went by what is their default now.
            before, now = RunConfig.parse(read_recipe(file)).resolved().flat(), config.flat()
            now |= {key: before[key] for key in AT_FIRST if asked[key] != now[key]}
            config = RunConfig.parse(now)
            changed = [
                f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
                for key in sorted(before.keys() | now.keys())
                if before.get(key) != now.get(key) and key not in CHANGEABLE
            ]
            if changed:
                raise CheckpointError(
                    f"run {name!r} has another configuration: {'; '.join(changed)}. "
                    "Choose another run.name, or the same settings"
                )
        with replacing(file) as written:
            written.write(config.toml().encode())
        with told(folder, name):
            yield config, folder


@contextmanager
def _no_empty_folder(folder: Path, before_us: bool) -> Iterator[None]:
    """Remove a run's folder after an error, unless there is something to go on from."""
    try:
        yield
    except BaseException:
        if not before_us and latest_checkpoint(folder / "checkpoints") is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def begun_on(parts: Parts) -> dict[str, str]:
    """Return digests of what a run trains and evaluates; see run/begun.py."""
    model = parts.model
    initial = hashlib.blake2b(parts.initial.tobytes(), digest_size=16).hexdigest()
    begun = {} if parts.tokenizer is None else {"tokenizer": tokenizer_digest(parts.tokenizer)}
    if not parts.config.model.scratch:
        begun["base"] = model.fingerprint
    return {
        **begun,
        "layout": model.layout.hash,
        "initial": initial,
        **data_digests(parts.data),
    }


def build_loop(parts: Parts, folder: Path, transport: Transport) -> Loop:
    """Return the loop of a run over a transport, restored from its checkpoint if it has one.

    Raises
    ------
    CheckpointError
        If model or data are not those that the run began with, or no checkpoint is whole.
    """
    c = parts.config
    fleet, network = _devices(parts)  # first: their files may be refused
    optimizer = ServerOptimizer(c.server, parts.initial)
    state, begun, restored = None, begun_on(parts), newest_whole(folder / "checkpoints")
    if restored is not None:
        state = restored.state.resumed()
        check_same(c.run.name, state.round, state.begun_on, begun, _where(c))
        set_aside(restored)
        optimizer.restore(restored.tensors)
        log.info("run %s goes on after round %d, from %s", c.run.name, state.round, restored.path)
    state = state or RunState(begun_on=begun)
    planner = _planner(parts, fleet, network)
    if fleet is not None:
        refuse_too_small(Fitting(parts), planner, state, optimizer.params, fleet)
    real = c.data.train == NODE
    population = 0 if real else len(eligible(parts.counts()))
    asked = c.round if real else c.round.sized(population)
    present = everybody if real else present_of(fleet, parts.counts(), c.run.seed)
    recorder = Recorder(
        folder, state if restored else None, c.run.rounds, c.run.checkpoint_every,
        parts.model.base_bytes, parts.task.unit, bool(network and network.fleet), population,
    )  # fmt: skip
    limits = Limits(c.run, asked, network, c.task.kind.falling)
    evaluator = evaluator_of(parts, recorder, limits, transport)
    limits.measured = evaluator.asked
    return Loop(
        state=state,
        resumed=restored is not None,
        planner=planner,
        pacing=pacing_of(asked, c.run.seed, present),
        limits=limits,
        optimizer=optimizer,
        transport=transport,
        evaluator=evaluator,
        recorder=recorder,
        min_replies=c.round.min_replies,
        counting=Counting(
            c.round.weights or method_of(c.strategy.name).weights, parts.most_units,
            Guard.of(c.round),
        ),
        effort=parts.effort,
        schedule=partial(factor, c.server),
        reading=_reading(c),
        simulated=c.data.train != NODE,
    )  # fmt: skip


def _devices(parts: Parts) -> tuple[Fleet | None, Network | None]:
    """Return the classes of devices, and the clock of a simulation; of real ones there is none."""
    c = parts.config
    fleet, real = Fleet(c.devices, c.run.seed) if c.devices.on else None, c.data.train == NODE
    network = network_of(
        c.network, c.run.seed, c.compute, None if real else fleet, parts.row_flops,
        parts.row_part,
    )  # fmt: skip
    if network and not real:
        network.warn_of_strangers(parts.counts())
    return fleet, network


def _planner(parts: Parts, fleet: Fleet | None, network: Network | None) -> Planner:
    """Return what plans the rounds."""
    c, model = parts.config, parts.model
    real = c.data.train == NODE  # then a device's class is what it says, and not the fleet's draw
    return Planner(
        method_of(c.strategy.name), c.strategy, c.wire, model.layout, model.fingerprint,
        parts.initial, c.run.seed, parts.heads, tiers_of(None if real else fleet),
        balance_of(
            network, c.devices, c.client.steps,
            lambda client, work: parts.effort(work, parts.counts()[client]),
        ),
        tiers_told(fleet) if fleet is not None and real else None, c.devices,
    )  # fmt: skip


def _reading(c: RunConfig) -> Reading:
    """Return how clients go through their examples."""
    client = c.client
    if c.reading != STREAM:
        return Epochs()
    return Streams(client.steps, client.batch, client.stream_end == WRAP)


def _where(c: RunConfig) -> str:
    """Return where a run's model and data come from, in words."""
    test = f", data.test {c.data.test}" if c.data.test else ""
    return f"model.source {c.model.source}, data.train {c.data.train}{test}"


class LocalTransport:
    """Every client in this process, one after the other: for tests, pilots and sweeps."""

    def __init__(self, parts: Parts, folder: Path) -> None:
        self._parts, self._folder = parts, folder
        self._waiting: list[Request] = []

    @cached_property
    def _device(self) -> Device:
        return self._parts.device(self._folder)

    def clients(self) -> Mapping[str, int]:
        """Return the number of examples of every client."""
        return self._parts.counts()

    def busy(self) -> Collection[str]:
        """Return nobody: a job is done before the next is given."""
        return ()

    def profiles(self) -> Mapping[str, Profile]:
        """Return nothing: all clients are this one machine."""
        return {}

    def submit(self, requests: Sequence[Request], timeout_s: float) -> None:
        """Take requests; they are done as they are polled."""
        self._waiting += requests

    def poll(self) -> list[Reply]:
        """Do all requests and return their replies: none is late because another took long."""
        waiting, self._waiting = self._waiting, []
        replies = [reply for request in waiting for reply in answer(self._device, request)]
        check_room(reply.error for reply in replies)
        return replies

    def held(self) -> Mapping[str, int]:
        """Return the number of examples that a device holds out."""
        return self._parts.held()

    def measure(self, request: Request, timeout_s: float) -> list[Measurement]:
        """Measure the model on what clients hold out: none is late because another took long."""
        return measure(self._device, request)


def run_local(
    config: RunConfig, transport: Callable[[Parts, Path], Transport] = LocalTransport
) -> Path:
    """Play a whole run in this process and return its folder."""
    with opened_run(config) as (resolved, folder):
        parts = Parts(resolved, Place.of(resolved))
        loop = build_loop(parts, folder, transport(parts, folder))
        loop.play()
        finish_run(parts, folder, loop)
        return folder
