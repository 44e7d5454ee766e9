"""The runs behind docs/guide.md, as data.

A federated run trains on ROWS rows, each at most once, whatever its settings: batch, clients of a
round and local steps say in how many rounds. Its twin is centralized: one client with all data.
A name says what it is: fed-b16-n8-h16-lr0.008-s0 has batches of 16 rows, 8 clients of a round and
16 local steps.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedllm_app.config import RunConfig
from fedllm_app.study.sweep import Cell

Settings = dict[str, Any]

ROWS, ROW = 8192, 64  # of a run; tokens of a row
POPULATION = 64
CENTRE = {"B": 4, "n": 8, "H": 16, "lr": 0.008}
BETA2 = 0.99  # at CENTRE's batch; where the half-life is fixed, a batch b times larger has 0.99^b
LRS = (0.002, 0.004, 0.008, 0.016)
BEST_LR = 0.002  # of the centre; what else is compared at one rate has it
LOW = (0.0005, 0.001)  # tried where 0.002 was best and the lowest
BATCHES, CENTRAL_BATCHES = (1, 4, 16), (1, 4, 16, 64)
CLIENTS, LOCAL_STEPS = (2, 8, 32), (4, 16, 64)
SHARES = (0.5, 0.25)
SEEDS = (0, 1, 2)
# At equal rows they follow from batch, clients and local steps.
DERIVED = ("run.rounds", "client.schedule-steps", "client.warmup-steps")
STAGES = (
    "batches", "centralized", "clients", "steps", "options", "seeds", "uneven", "held out",
)  # fmt: skip
FLEETS = {
    "mixed": "phone=0.6,wearable=0.1,embedded=0.2,pc=0.1",
    "phones": "phone=1.0",
}
HELD_FLEET = "phone=0.3,embedded-fast=0.3,laptop=0.4"  # which no run was played for
HELD_MODEL = "scratch:tiny"

BASE: Settings = {
    "task.name": "pretraining", "task.max-tokens": ROW, "model.source": "scratch:micro",
    "model.train": "full", "model.tokenizer": "train", "model.vocabulary": 1024,
    "data.test-split": "validation", "data.user-column": "folder", "data.eval-examples": 1000,
    "partition.name": "mixture", "partition.alpha": 1.0, "partition.clients": POPULATION,
    "client.optimizer": "adamw", "client.beta1": 0.9, "client.weight-decay": 0.1,
    "client.decay-all": False, "client.clip-norm": 1.0, "client.schedule": "cosine",
    "client.lr-floor": 0.1, "client.keep-optimizer": False, "strategy.name": "photon",
    "devices.fleet": FLEETS["mixed"],
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes
    ----------
    figure : the table that it belongs to.
    stage : when it is played; see STAGES.
    name : of the run.
    settings : places left out.
    """

    figure: str
    stage: str
    name: str
    settings: Settings = field(default_factory=dict)

    def cell(self, places: Settings) -> Cell:
        """Return the run."""
        return Cell(self.name, self.settings | places)


def half_life(batch: int) -> float:
    """Return the beta2 whose half-life in tokens is that of BETA2 at CENTRE's batch."""
    return float(BETA2 ** (batch / CENTRE["B"]))


def federated(own: Mapping[str, Any], more: Settings | None = None, seed: int = 0) -> Settings:
    """Return a run of ROWS rows.

    Parameters
    ----------
    own : B rows of a batch, n clients of a round, H local steps, lr; CENTRE has the rest.
    more : settings over it.
    """
    at = CENTRE | dict(own)
    B, n, H = int(at["B"]), int(at["n"]), int(at["H"])
    rounds = max(1, ROWS // (B * n * H))
    clock = rounds * H
    return BASE | {
        "client.batch": B, "round.clients": n, "client.steps": H, "client.lr": at["lr"],
        "client.beta2": BETA2, "run.rounds": rounds, "run.seed": seed,
        "round.evaluate-every": max(1, rounds // 8), "run.checkpoint-every": max(1, rounds // 2),
        "client.schedule-steps": clock, "client.warmup-steps": max(1, clock // 20),
    } | (more or {})  # fmt: skip


def centralized(batch: int, lr: float, more: Settings | None = None, seed: int = 0) -> Settings:
    """Return a run of ROWS rows of one client that holds all data and keeps its optimizer."""
    made = federated({"B": batch, "n": 1, "H": ROWS // batch // 8, "lr": lr}, more, seed)
    made = {k: v for k, v in made.items() if not k.startswith("partition.")}
    return made | {
        "partition.clients": 1, "strategy.name": "fedavg", "client.keep-optimizer": True,
        "round.clip": "off", "server.optimizer": "sgd", "server.lr": 1.0,
    }  # fmt: skip


def made(figure: str, stage: str, own: Mapping[str, Any], more: Settings | None = None,
         tag: str = "", seed: int = 0) -> Entry:  # fmt: skip
    """Return a federated entry, named by batch, clients, local steps, rate, and what else it is."""
    words = [f"{key.lower()}{value:g}" for key, value in (CENTRE | dict(own)).items()]
    name = "-".join(["fed", *words, *([tag] if tag else []), f"s{seed}"])
    return Entry(figure, stage, name, federated(own, more, seed))


def entries() -> list[Entry]:
    """Return every run but those of the held-out model; a run stands once."""
    kinds = (_batches, _centralized, _clients, _steps, _options, _seeds, _uneven)
    return once(entry for kind in kinds for entry in kind())


def once(every: Iterable[Entry]) -> list[Entry]:
    """Return entries without those of a name that stood before."""
    found: dict[str, Entry] = {}
    for entry in every:
        found.setdefault(entry.name, entry)
    return list(found.values())


def _batches() -> Iterator[Entry]:
    """Yield local batches against learning rates, with both rules for beta2."""
    for B in BATCHES:
        for lr in (LOW[1:] if B > CENTRE["B"] else LOW) + LRS:
            own = {"B": B, "lr": lr}
            yield made("batches", "batches", own)
            if B != CENTRE["B"]:
                yield made("batches", "batches", own, {"client.beta2": half_life(B)}, "half")


def _centralized() -> Iterator[Entry]:
    """Yield the same for centralized training."""
    for B in CENTRAL_BATCHES:
        for lr in LOW + LRS if B in BATCHES else LRS:
            yield _central(B, lr)
            if B in BATCHES and B != CENTRE["B"]:
                yield _central(B, lr, half=True)


def _central(B: int, lr: float, half: bool = False, seed: int = 0) -> Entry:
    more = {"client.beta2": half_life(B)} if half else None
    name = f"central-b{B}-lr{lr:g}{'-half' if half else ''}-s{seed}"
    stage = "seeds" if seed else "centralized"
    return Entry("centralized", stage, name, centralized(B, lr, more, seed))


def _clients() -> Iterator[Entry]:
    """Yield clients of a round against batches and rates."""
    for n in CLIENTS:
        for B in (1, 4):
            for lr in LOW[1:] + LRS:
                yield made("clients", "clients", {"B": B, "n": n, "lr": lr})
    yield made("clients", "clients", {"B": 4, "n": 2, "lr": LOW[0]})


def _steps() -> Iterator[Entry]:
    """Yield rounds against local steps."""
    for H in LOCAL_STEPS:
        for B in (1, 4):
            for lr in LRS[:3]:
                yield made("steps", "steps", {"B": B, "H": H, "lr": lr})
    for lr in (*LOW, *LRS[:2]):  # few clients were best at 16 steps
        yield made("steps", "steps", {"n": 2, "H": 64, "lr": lr})
    for lr in (*LOW[1:], *LRS[:1]):
        yield made("steps", "steps", {"B": 16, "n": 2, "H": 64, "lr": lr})
    # After the held-out grid, in which one client at a time was best.
    for H, lr in ((64, LOW[0]), (64, LOW[1]), (64, LRS[0]), (16, LOW[1]), (16, LRS[0])):
        yield made("steps", "steps", {"n": 1, "H": H, "lr": lr})


def _options() -> Iterator[Entry]:
    """Yield schedules, the optimizer's state, and shares of what is trained."""
    for schedule in ("constant", "wsd"):
        for lr in LRS:
            yield made("options", "options", {"lr": lr}, {"client.schedule": schedule}, schedule)
    for lr in LRS:
        few = {"partition.clients": 8}
        yield made("options", "options", {"lr": lr}, few, "all8")
        yield made("options", "options", {"lr": lr}, few | KEPT, "all8-kept")
    for lr in LRS[:3]:
        yield made("options", "options", {"lr": lr}, KEPT, "kept")
        for share in SHARES:
            part = {"strategy.name": "partial", "strategy.train-share": share} | FEDAVG
            yield made("options", "options", {"lr": lr}, part, f"partial{share:g}")
            part = {"strategy.name": "heads", "strategy.head-share": share} | FEDAVG
            yield made("options", "options", {"lr": lr}, part, f"heads{share:g}")


def _seeds() -> Iterator[Entry]:
    """Yield two more seeds of what claims rest on."""
    wsd = {"client.schedule": "wsd"}
    half = {"strategy.name": "partial", "strategy.train-share": 0.5} | FEDAVG
    for seed in SEEDS[1:]:
        for own, more, tag in (
            ({"lr": 0.008}, None, ""),
            ({"lr": BEST_LR}, None, ""),
            ({"n": 2, "H": 64, "lr": 0.001}, None, ""),
            ({"lr": BEST_LR}, wsd, "wsd"),
            ({"lr": 0.004}, half, "partial0.5"),
        ):  # fmt: skip
            yield made("seeds", "seeds", own, more, tag, seed)
        yield _central(4, 0.001, seed=seed)


def _uneven() -> Iterator[Entry]:
    """Yield the centre where the fast take steps from the slow, on the mixed fleet, three seeds."""
    for seed in SEEDS:
        balance = {"devices.balance": True}
        yield made("uneven", "uneven", {"lr": BEST_LR}, balance, "balance", seed)


KEPT: Settings = {"client.keep-optimizer": True}
FEDAVG: Settings = {"server.optimizer": "sgd", "server.lr": 1.0}  # what photon is defined with


def held_grid() -> list[Entry]:
    """Return the exhaustive grid of the held-out model, on the held-out fleet."""
    return [
        held({"n": n, "H": H, "lr": lr})
        for n in (1, *CLIENTS[:2])
        for H in LOCAL_STEPS[1:]
        for lr in (*LOW[1:], *LRS[:1])
    ]


def held(own: Mapping[str, Any], more: Settings | None = None, tag: str = "") -> Entry:
    """Return a run of the held-out model."""
    place = {"model.source": HELD_MODEL, "devices.fleet": HELD_FLEET}
    entry = made("held out", "held out", own, (more or {}) | place, tag)
    return Entry(entry.figure, entry.stage, f"held-{entry.name}", entry.settings)


def advised(knobs: Mapping[str, Any], rounds: int) -> Entry:
    """Return the run of the held-out model that an advice asks for, to the end of its schedule.

    Parameters
    ----------
    knobs : of the advice, as settings; None of a key that it does not read.
    rounds : of its schedule.
    """
    own = {
        letter: knobs.get(key, CENTRE[letter])
        for letter, key in (
            ("B", "client.batch"), ("n", "round.clients"), ("H", "client.steps"),
            ("lr", "client.lr"),
        )
    }  # fmt: skip
    base = RunConfig.parse(federated(own)).resolved().flat()
    more = {k: v for k, v in knobs.items() if v is not None and base[k] != v}
    found = held(own, more, "-".join(f"{k.split('.')[1]}-{v}" for k, v in sorted(more.items())))
    assert found.settings["run.rounds"] == rounds
    return found
