"""The runs behind docs/instruction-tuning.md, as data.

SmolLM2-135M-Instruct on two sets: `medquad`, 12 sites of unequal size by domain, and `assistant`,
20 clients with a mixture of domains each. Values such as org/medquad stand for
places of one machine. All methods are tuned alike: the same rates of the
server, on a share of medquad's training rows, half as many rounds.
"""

from collections.abc import Iterator

from benchmarks.study_kit.entry import Entry, Settings

ROUNDS = 10
RANK = 8
SERVER_LRS = (0.003, 0.01, 0.03)
SEEDS = (0, 1, 2)
STAGES = ("rates", "medquad", "assistant", "seeds")

BASE: Settings = {
    "task.name": "instruction", "task.max-tokens": 128, "data.test-split": "validation",
    "data.eval-examples": 48, "model.source": "org/model", "lora.targets": "all-linear",
    "lora.rank": RANK, "lora.alpha": 2.0 * RANK, "lora.dropout": 0.0,
    "partition.name": "dirichlet", "partition.by": "domain", "partition.alpha": 0.5,
    "client.optimizer": "adamw", "client.batch": 3, "client.steps": 4, "server.optimizer": "adam",
    "client.lr": 0.001, "round.clients": 3, "task.generate-tokens": 48,
}  # fmt: skip
SETS: dict[str, Settings] = {
    "medquad": {"data.train": "org/medquad", "partition.clients": 12},
    "assistant": {"data.train": "org/assistant", "partition.clients": 20},
}
FLOSS: Settings = {
    "strategy.name": "floss", "strategy.d-down": 1 / 4, "strategy.d-up": 1 / 16,
    "wire.up-values": "q4", "wire.down-values": "int8",
}  # fmt: skip
METHODS: dict[str, Settings] = {
    "dense": {"strategy.name": "dense"},
    "floss": FLOSS | {"strategy.down": "change"},
    # As it is published: the largest values, so that B waits until it has grown beyond A.
    "floss-values": FLOSS,
    # A quarter of the rank: the plain way to send a quarter. alpha / rank stays.
    "rank": {"strategy.name": "dense", "lora.rank": RANK // 4, "lora.alpha": RANK / 2},
}  # fmt: skip


def trials() -> Iterator[Entry]:
    """Yield the trials of every method: half as many rounds, on the validation share."""
    for method, own in METHODS.items():
        for lr in SERVER_LRS:
            settings = BASE | SETS["medquad"] | own
            settings |= {
                "run.rounds": ROUNDS // 2, "data.evaluate-on": "validation",
                "data.holdout": 0.02, "round.evaluate-every": ROUNDS // 2,
            }  # fmt: skip
            name = f"trial-{method}-{lr:g}"
            yield Entry(method, "rates", name, settings, tries={"server.lr": lr})


def entries() -> Iterator[Entry]:
    """Yield every run but the trials; the method as published has one seed, all others three."""
    for data, clients in SETS.items():
        for method, own in METHODS.items():
            for seed in SEEDS[:1] if method == "floss-values" else SEEDS:
                settings = BASE | clients | own
                settings |= {
                    "run.rounds": ROUNDS, "run.seed": seed, "round.evaluate-every": 2,
                    "task.generate": 24, "task.generate-at": "evaluations",
                }  # fmt: skip
                stage = "seeds" if seed else data
                yield Entry(data, stage, f"{data}-{method}-s{seed}", settings, method)
