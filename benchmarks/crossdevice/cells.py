"""The runs behind docs/reproducing-cross-device.md, as data.

A run is named by its model, its way of training and its seed: lstm-small-partial-40-s0. Values that
name a place of one machine, a text or a model that was trained before, are placeholders.
"""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.study_kit.entry import Entry, Settings

ROUNDS, CLIENTS, STEPS, BATCH, ROW = 40, 10, 4, 8, 32
SEEDS = (0, 1, 2)
FAMILIES = ("lstm", "transformer", "conformer")
LARGE, SMALL = "small", "tiny"  # shapes of ours that stand for the paper's large and small
RATES = (
    (0.1, 0.003),
    (0.3, 0.003),
    (1.0, 0.003),
    (0.3, 0.01),
    (0.3, 0.001),
)  # of devices, of the server
# Rates beyond those, of the LSTMs: all others are held against them, and their best is at an edge.
EDGES = {"lstm-tiny": ((0.3, 0.03), (1.0, 0.01)), "lstm-small": ((3.0, 0.003), (1.0, 0.01))}
STAGES = (
    "pretraining", "rates", "headline", "table", "seeds", "beyond", "articles", "users", "edges",
)  # fmt: skip
ROLES, ARTICLES, PUBLIC = "text/roles", "text/articles", "text/public"
TOKENIZER = "text/tokenizer"
PRETRAINED = "pretrained"

BASE: Settings = {
    "task.name": "next-token", "task.max-tokens": ROW, "data.train": ROLES,
    "data.user-column": "user", "data.eval-examples": 500, "partition.name": "natural",
    "model.train": "full", "model.tokenizer": TOKENIZER,
    "client.momentum": 0.0, "client.batch": BATCH, "client.steps": STEPS, "client.clip-norm": 1.0,
    "client.autocast": "bfloat16", "server.optimizer": "adam", "strategy.name": "dense",
    "round.clients": CLIENTS, "round.evaluate-every": 5, "run.rounds": ROUNDS,
}  # fmt: skip
# Centralized: one client that holds all of the public text and keeps its optimizer.
CENTRAL: Settings = {
    "task.name": "pretraining", "task.max-tokens": ROW, "data.train": PUBLIC,
    "data.eval-examples": 500, "partition.clients": 1, "round.clients": 1, "round.clip": "off",
    "round.evaluate-every": 5, "run.rounds": 20, "strategy.name": "fedavg",
    "model.train": "full", "model.tokenizer": TOKENIZER,
    "client.optimizer": "adamw", "client.lr": 0.002, "client.weight-decay": 0.1,
    "client.decay-all": False, "client.clip-norm": 1.0, "client.keep-optimizer": True,
    "client.batch": 16, "client.steps": 64, "client.schedule": "cosine", "client.lr-floor": 0.1,
    "client.schedule-steps": 1280, "client.warmup-steps": 64, "client.autocast": "bfloat16",
}  # fmt: skip


def partial(share: float) -> Settings:
    """Return partial training of a share of the variables."""
    return {"strategy.name": "partial", "strategy.train-share": share}


BYTE: Settings = {"wire.up-values": "u8"}
LEAN = partial(0.4) | BYTE | {"wire.down-values": "u16"}


def floss(part: int) -> Settings:
    """Return LEAN with the largest 1/part of the trained part sent, in q4."""
    own = {"strategy.name": "partial-floss", "strategy.d-up": 1 / part, "wire.up-values": "q4"}
    return LEAN | own


WAYS: dict[str, Settings] = {
    "full": {}, "partial-40": partial(0.4), "partial-20": partial(0.2), "8-bit": BYTE,
    "transfer": {}, "lean": LEAN, "combined": LEAN,
    "floss-4": floss(4), "floss-8": floss(8), "floss-16": floss(16),
}  # fmt: skip
# These go on from the model that was pre-trained on the public text.
GO_ON = ("transfer", "combined", "floss-4", "floss-8", "floss-16")
# With three seeds: the rows that claims about the paper, and our goal, rest on.
HEADLINE = (
    "lstm-tiny-full", "lstm-small-full", "lstm-small-transfer",
    "transformer-small-combined", "conformer-small-combined",
    "transformer-small-floss-4", "conformer-small-floss-4",
)  # fmt: skip
ON_ARTICLES = tuple(point for point in HEADLINE if point != "lstm-small-transfer")
# By user: a tenth of all users never trains, and a tenth of the others' texts is held out.
MEASURED = ("lstm-small-full", "transformer-small-combined", "conformer-small-combined")
BY_USER: Settings = {
    "data.unseen-clients": 0.1, "data.client-holdout": 0.1, "round.evaluate-clients": 200,
    "round.evaluate-every": ROUNDS,
}  # fmt: skip


def pretrained(shape: str) -> str:
    """Return the run that pre-trains a shape."""
    return f"{PRETRAINED}-{shape}-s0"


def entry(figure: str, stage: str, point: str, seed: int = 0, data: str = ROLES) -> Entry:
    """Return a run of a point, such as "lstm-small-full"."""
    family, size, way = point.split("-", 2)
    shape = f"{family}-{size}"
    settings = BASE | WAYS[way] | {"data.train": data, "run.seed": seed}
    settings |= {"model.source": f"scratch:{shape}"}
    needs: tuple[str, ...] = ()
    if way in GO_ON:
        needs = (pretrained(shape),)
        settings |= {"model.source": f"{PRETRAINED}/{shape}", "model.tokenizer": ""}
    name = point if data == ROLES else f"articles-{point}"
    return Entry(figure, stage, f"{name}-s{seed}", settings, shape, needs=needs)


def trial_name(shape: str, client: float, server: float) -> str:
    """Return the name of a run that tries rates."""
    return f"trial-{shape}-{client:g}-{server:g}"


def trials() -> Iterator[Entry]:
    """Yield the trials of every shape: full training, half as long as a run, one seed."""
    for shape in (f"{family}-{size}" for family in FAMILIES for size in (SMALL, LARGE)):
        made = BASE | {"model.source": f"scratch:{shape}", "run.rounds": ROUNDS // 2}
        for client, server in RATES:
            rates = {"client.lr": client, "server.lr": server}
            yield Entry(shape, "rates", trial_name(shape, client, server), made, tries=rates)


def edges() -> Iterator[Entry]:
    """Yield runs at rates beyond the trials', each as long as a trial; none is taken by others."""
    for shape, tried in EDGES.items():
        for client, server in tried:
            made = BASE | {"model.source": f"scratch:{shape}", "run.rounds": ROUNDS // 2}
            made |= {"client.lr": client, "server.lr": server}
            yield Entry("edges", "edges", trial_name(shape, client, server), made)


def by_user(point: str) -> Entry:
    """Return the run of a point that is measured user by user."""
    plain = entry("users", "users", point)
    return replace(plain, name=f"users-{plain.name}", settings=plain.settings | BY_USER)


def entries() -> list[Entry]:
    """Return every run but the trials."""
    shapes = [f"{family}-{size}" for family in FAMILIES for size in (SMALL, LARGE)]
    made = [
        Entry(PRETRAINED, "pretraining", pretrained(shape),
              CENTRAL | {"model.source": f"scratch:{shape}"})
        for shape in shapes
    ]  # fmt: skip
    made += [entry(_figure(point), "headline", point) for point in HEADLINE]
    for shape in shapes:
        # The small ones: where the literature stands, and what all techniques make of them.
        small = ("full", "transfer", "lean", "combined")
        ways = small if shape.endswith(SMALL) else [w for w in WAYS if not w.startswith("floss")]
        points = (f"{shape}-{way}" for way in ways)
        made += [entry("paper", "table", point) for point in points if point not in HEADLINE]
    made += [entry(_figure(p), "seeds", p, seed) for seed in SEEDS[1:] for p in HEADLINE]
    for shape in ("transformer-small", "conformer-small"):
        made += [entry("beyond", "beyond", f"{shape}-{way}") for way in ("floss-8", "floss-16")]
    made += [entry("articles", "articles", point, data=ARTICLES) for point in ON_ARTICLES]
    return [*made, *map(by_user, MEASURED), *edges()]


def _figure(point: str) -> str:
    return "beyond" if "-floss-" in point else "paper"
