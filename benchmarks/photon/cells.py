"""The runs behind docs/reproducing-photon.md, as data.

A run is named by what it is, so the name is all that ties an entry to its folder: photon-k4-h64-s0
is Photon with 4 clients and 64 local steps. Runs at equal tokens take `STEPS` local steps of all
clients together; those at equal sequential steps take `STEPS` / 4 on every client.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.study_kit import entry as study_kit
from benchmarks.study_kit.entry import Settings
from fedllm_app.config import RunConfig
from fedllm_app.study.centralized import Equal, twin

STEPS = 4096
BATCH, ROW = 2, 64
CLIENTS, LOCAL = 4, 16  # K and H where neither is varied
BETA2 = 0.99  # at BATCH rows; a larger batch keeps its half-life in tokens
SEEDS = (0, 1, 2)
LARGER = "u32-q2"  # the uploads beside the headline's that have three seeds too
CLIENT_LRS = (0.0005, 0.001, 0.002, 0.004)
OUTER_LRS = (0.1, 0.3, 0.7, 1.0)
STAGES = ("rates", "outer rates", "headline", "seeds", "bytes", "table", "uneven", "size")

BASE: Settings = {
    "data.train": "org/data",
    "task.name": "pretraining", "task.max-tokens": ROW, "model.source": "scratch:tiny",
    "model.train": "full", "model.tokenizer": "train", "model.vocabulary": 4096,
    "data.test-split": "validation", "data.user-column": "folder", "data.eval-examples": 500,
    "client.optimizer": "adamw", "client.beta1": 0.9, "client.beta2": BETA2,
    "client.weight-decay": 0.1, "client.decay-all": False, "client.clip-norm": 1.0,
    "client.batch": BATCH, "client.schedule": "cosine", "client.lr-floor": 0.1,
    "client.autocast": "bfloat16", "client.keep-optimizer": True,
}  # fmt: skip
SMALL: Settings = {"model.source": "scratch:small"}
SPARSE: Settings = {
    "strategy.name": "sparse-diloco", "strategy.d-up": 1 / 64, "wire.up-values": "q2",
}  # fmt: skip
DOWN: Settings = {
    "strategy.down": "change", "wire.down-values": "grid", "wire.grid-bits": 3.0,
}  # fmt: skip


def federated(method: str, K: int = CLIENTS, H: int = LOCAL, steps: int = STEPS) -> Settings:
    """Return a run of `steps` local steps of K clients together, evaluated four times."""
    rounds = max(1, steps // (K * H))
    own = rounds * H
    return BASE | {
        "strategy.name": method, "partition.clients": K, "round.clients": K, "client.steps": H,
        "run.rounds": rounds, "round.evaluate-every": max(1, rounds // 4),
        "run.checkpoint-every": max(1, rounds // 8),
        "client.schedule-steps": own, "client.warmup-steps": max(1, own // 20),
    }  # fmt: skip


@dataclass(frozen=True)
class Entry(study_kit.Entry):
    """One run's place in the table.

    Attributes
    ----------
    twin : the centralized run of these settings is meant.
    """

    twin: Equal | None = None

    def made(self, settings: Settings) -> Settings:
        """Return the settings of the twin; the second moment's half-life in tokens stays."""
        if self.twin is None:
            return settings
        named = RunConfig.parse(settings | {"run.name": self.name})
        default, made = RunConfig().flat(), twin(named, Equal(self.twin))
        flat = {key: value for key, value in made.flat().items() if value != default[key]}
        del flat["run.name"]
        beta2 = BETA2 ** (made.client.batch / BATCH)
        return flat | {"client.beta2": beta2, "data.train": settings["data.train"]}


def trials() -> Iterator[Entry]:
    """Yield the trials of every rate: half as long as a run, K = 4, H = 16, one seed."""
    short = STEPS // 2
    photon = federated("photon", steps=short)
    for lr in CLIENT_LRS:
        rate = {"client.lr": lr}
        yield Entry("photon", "rates", f"trial-photon-{lr:g}", photon, tries=rate)
        for equal in Equal:
            name = f"trial-centralized-{equal.value}-{lr:g}"
            yield Entry(f"centralized-{equal.value}", "rates", name, photon, "", equal, tries=rate)
        yield Entry(
            "photon-small", "size", f"trial-photon-small-{lr:g}", photon | SMALL, tries=rate
        )
    for lr in OUTER_LRS:
        rate = {"server.lr": lr}
        diloco = federated("diloco", steps=short)
        yield Entry("diloco", "outer rates", f"trial-diloco-{lr:g}", diloco, "photon", tries=rate)
        sparse = federated("sparse-diloco", steps=short) | SPARSE
        yield Entry("sparse", "outer rates", f"trial-sparse-{lr:g}", sparse, "photon", tries=rate)


def entries() -> list[Entry]:
    """Return every run but the trials."""
    return [*_headline(), *_table(), *_bytes(), *_uneven()]


def _headline() -> Iterator[Entry]:
    """Yield the rows that a claim rests on, with three seeds."""
    points = {
        "photon": (federated("photon"), "photon"),
        "diloco": (federated("diloco"), "diloco"),
        "sparse": (federated("sparse-diloco") | SPARSE, "sparse"),
        "sparse-down": (federated("sparse-diloco") | SPARSE | DOWN, "sparse"),
    }
    for seed in SEEDS:
        stage = "seeds" if seed else "headline"
        for name, (settings, rates) in points.items():
            made = settings | {"run.seed": seed}
            yield Entry("headline", stage, f"{name}-k{CLIENTS}-h{LOCAL}-s{seed}", made, rates)
        for equal in Equal:
            made = federated("photon") | {"run.seed": seed}
            name = f"centralized-{equal.value}-s{seed}"
            yield Entry("headline", stage, name, made, f"centralized-{equal.value}", equal)


def _table() -> Iterator[Entry]:
    """Yield clients against local steps, at equal tokens and at equal sequential steps; size."""
    for K in (1, 2, 4, 8):
        for H in (16, 64, 256):
            if (K, H) != (CLIENTS, LOCAL):
                name = f"photon-k{K}-h{H}-s0"
                yield Entry("tokens", "table", name, federated("photon", K, H), "photon")
            if K != CLIENTS:
                made = federated("photon", K, H, STEPS // CLIENTS * K)
                yield Entry("sequential", "table", f"photon-k{K}-h{H}-steps-s0", made, "photon")
    yield Entry("local steps", "table", "diloco-k1-h16-s0", federated("diloco", 1), "diloco")
    for H in (16, 64, 256):
        reset = federated("photon", H=H) | {"client.keep-optimizer": False}
        yield Entry("local steps", "table", f"photon-reset-k4-h{H}-s0", reset, "photon")
    for H in (64, 256):
        diloco = federated("diloco", H=H)
        yield Entry("local steps", "table", f"diloco-k4-h{H}-s0", diloco, "diloco")
        sparse = federated("sparse-diloco", H=H) | SPARSE
        yield Entry("local steps", "table", f"sparse-k4-h{H}-s0", sparse, "sparse")
    for H in (16, 256):
        made = federated("photon", H=H) | SMALL
        yield Entry("size", "size", f"photon-small-k4-h{H}-s0", made, "photon-small")


def _bytes() -> Iterator[Entry]:
    """Yield perplexity against bytes up: value types, densities, residuals."""
    dense = federated("diloco")
    for values in ("int8", "q4"):
        made = dense | {"wire.up-values": values}
        yield Entry("bytes", "bytes", f"diloco-{values}-s0", made, "diloco")
    sparse = federated("sparse-diloco") | SPARSE
    options: dict[str, Settings] = {
        f"u{n}-{values}": {"strategy.d-up": 1 / n, "wire.up-values": values}
        for n, values in ((16, "q2"), (32, "q2"), (64, "q4"), (128, "q2"))
    } | {
        "no-residual": {"strategy.feedback-decay": 0.0},
        "decay-0.9": {"strategy.feedback-decay": 0.9},
        "decay-0.99": {"strategy.feedback-decay": 0.99},
        "global": {"strategy.top-k": "global"},
        "cohort": {"strategy.mean": "cohort"},
    }  # fmt: skip
    for name, own in options.items():
        for seed in SEEDS if name == LARGER else SEEDS[:1]:
            made = sparse | own | ({"run.seed": seed} if seed else {})
            yield Entry("bytes", "bytes", f"sparse-{name}-s{seed}", made, "sparse")


def _uneven() -> Iterator[Entry]:
    """Yield sources, participation, lost replies, and late devices."""
    eight = federated("photon", 8)
    rounds = {n: STEPS // (n * LOCAL) for n in (2, 4)}
    for name, method in (("photon", "photon"), ("diloco", "diloco")):
        natural = federated(method) | {"partition.name": "natural"}
        yield Entry("uneven", "uneven", f"{name}-sources-s0", natural, method)
    for n, most in rounds.items():
        made = eight | {"round.clients": n, "run.rounds": most}
        made |= {"client.schedule-steps": most * LOCAL, "client.warmup-steps": most * LOCAL // 20}
        yield Entry("uneven", "uneven", f"photon-{n}-of-8-s0", made, "photon")
    half = federated("diloco", 8) | {"round.clients": 4, "compute.step-s": 1.0}
    half |= {"round.pacing": "deadline", "round.over-select": 2.0, "compute.ratio": 1.01}
    yield Entry("uneven", "uneven", "diloco-half-dropped-s0", half, "diloco")
    whole = federated("diloco", 8)
    yield Entry("uneven", "uneven", "diloco-k8-h16-s0", whole, "diloco")
    for ratio in (1.0, 4.0):
        speeds = {"compute.step-s": 1.0, "compute.ratio": ratio, "partition.clients": 8}
        pacing: dict[str, Settings] = {
            "sync": {},
            "deadline": {"round.pacing": "deadline", "round.over-select": 1.5},
            "async": {"round.pacing": "async", "round.concurrency": 4, "round.goal": 2},
        }
        for name, own in pacing.items():
            made = federated("photon") | speeds | own
            if name == "async":  # twice the steps of the server, each on half the replies
                clock = ("run.rounds", "client.schedule-steps", "client.warmup-steps")
                made |= {key: 2 * made[key] for key in clock}
            yield Entry("late", "uneven", f"{name}-{ratio:g}x-s0", made, "photon")
