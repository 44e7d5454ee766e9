"""The table of runs behind the thesis' figures, as data: which method, where, at which rates.

An `Entry` is one point or curve of one figure; entries of several figures may be the same run,
which is then played once. Runs are named by what they are, so the name is all that ties an entry
to its folder: 20n-dirichlet-floss-r16-d4-u16-s0 is FLoSS of rank 16 at densities 1/4 and 1/16.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.record import ROOT
from fedllm_app.config import read_recipe
from fedllm_app.study.sweep import Cell
from fedllm_app.tasks import task_of

Settings = dict[str, Any]
Rates = Mapping[str, Settings]

TRIAL_ROUNDS = 30
CLIENT_LRS = (0.01, 0.1)
SERVER_LRS = (0.003, 0.01, 0.03)
ROUNDS = 100  # of a run on bench-S
LONG = 200  # where links decide how many rounds fit
BUDGET_ROUNDS = 50  # of dense, whose time is the budget of figure 5.4
SEEDS = (0, 1, 2)
RANKS = (16, 4, 1)
DENSITIES = {"1": 1.0, "4": 1 / 4, "16": 1 / 16, "64": 1 / 64, "100": 0.01}
# The frozen base of all runs but the first trials, which were played before it was worth it: on a
# processor that multiplies bfloat16 a round takes 0.6 of its float32 time.
BASE: Settings = {"model.dtype": "bfloat16"}
# Methods that the thesis compares have three seeds, the others one.
COMPARED = ("dense", "floss", "rank-4", "sparse-adapter", "adapter-lth")
OTHERS = ("fed-select", "ffa-lora", "hetlora", "floss-tiers")
STAGES = ("tuning", "seed-0", "others", "seeds", "tasks")


@dataclass(frozen=True)
class TaskOf:
    """A task of the figures.

    Attributes
    ----------
    short : begins the names of its runs.
    recipe : what is not said here is there; the recipe's own method is left out.
    data, model : names under which the user gives the places.
    settings : where the reproduction differs from the recipe.
    unlike : the non-IID partition.
    round_s : seconds of a round on one quiet core, for an estimate before anything is measured.
    """

    short: str
    recipe: str
    data: str
    model: str
    settings: Mapping[str, Any]
    unlike: str
    round_s: float

    def base(self) -> Settings:
        """Return the settings that all runs of the task share, places left out."""
        recipe = read_recipe(ROOT / "recipes" / f"{self.recipe}.toml")
        shared = {k: v for k, v in recipe.items() if not k.startswith("strategy.")}
        return shared | dict(self.settings)

    def metric(self) -> str:
        """Return the name of the headline metric."""
        return task_of(str(self.base()["task.name"])).headline


TASKS = {
    "20newsgroups": TaskOf(
        "20n", "bench-s", "20newsgroups", "minilm",
        {"run.rounds": ROUNDS, "round.evaluate-every": 20}, "dirichlet", 3.6,
    ),
    # Half a batch and 16 rounds: about five minutes on one core.
    "shakespeare": TaskOf(
        "shakespeare", "shakespeare", "shakespeare", "smollm2",
        {
            "run.rounds": 16, "round.evaluate-every": 8, "client.batch": 4,
            "partition.clients": 1347,
        },
        "natural", 16.0,
    ),
    "cifar10": TaskOf(
        "cifar10", "cifar10", "cifar10", "dinov2-small",
        {"run.rounds": 20, "round.evaluate-every": 10}, "dirichlet", 12.0,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One run's place in one figure.

    Attributes
    ----------
    figure : "tuning", "5.1" to "5.4", "options", or "seeds": further seeds of points of 5.3.
    stage : when it is played; see STAGES.
    name : of the run.
    settings : the run's, places and rates left out.
    tuned_as : the method whose learning rates it takes; "" are the recipe's.
    """

    figure: str
    stage: str
    name: str
    task: str
    method: str
    partition: str
    seed: int
    settings: Mapping[str, Any]
    tuned_as: str = ""

    @property
    def rounds(self) -> int:
        """Return the rounds that the figure asks for."""
        return int(self.settings["run.rounds"])

    def cell(self, rates: Rates, places: Mapping[str, Any]) -> Cell | None:
        """Return the run, or None while its learning rates are not known."""
        if self.tuned_as and self.tuned_as not in rates:
            return None
        own = rates[self.tuned_as] if self.tuned_as else {}
        return Cell(self.name, TASKS[self.task].base() | dict(self.settings) | own | dict(places))


def method_settings(method: str, task: str) -> Settings:
    """Return a method at communication 0.25, or at its own where it has no such setting."""
    rank = int(TASKS[task].base()["lora.rank"])
    tiers = ",".join(str(max(1, r * rank // 16)) for r in (1, 4, 16))
    own: dict[str, Settings] = {
        "dense": {"strategy.name": "dense"},
        "rank-4": {"strategy.name": "dense"} | at_rank(task, max(1, rank // 4)),
        "floss": floss(1 / 4, 1 / 4),
        "sparse-adapter": {"strategy.name": "sparse-adapter", "strategy.density": 0.25},
        # decay 0: the mask shrinks so that its mean density over the run is the density.
        "adapter-lth": {
            "strategy.name": "adapter-lth", "strategy.density": 0.25, "strategy.decay": 0.0,
        },
        "fed-select": {"strategy.name": "fed-select", "strategy.density": 0.25},
        "ffa-lora": {"strategy.name": "ffa-lora"} | at_rank(task, rank // 2),
        "hetlora": {"strategy.name": "hetlora", "strategy.tier-ranks": tiers},
        "floss-tiers": {
            "strategy.name": "floss-tiers", "strategy.tier-densities": "0.0625,0.25,1",
        },
    }  # fmt: skip
    return at_rank(task, rank) | own[method]


def at_rank(task: str, rank: int) -> Settings:
    """Return a rank with the alpha that keeps the recipe's scale alpha / rank."""
    base = TASKS[task].base()
    return {"lora.rank": rank, "lora.alpha": rank * base["lora.alpha"] / base["lora.rank"]}


def floss(down: float, up: float) -> Settings:
    """Return FLoSS at two densities."""
    return {"strategy.name": "floss", "strategy.d-down": down, "strategy.d-up": up}


def trials() -> Iterator[Entry]:
    """Yield the trials: the same grid for every method, on Dirichlet and a validation split."""
    task = "20newsgroups"
    for method in COMPARED + OTHERS:
        own = method_settings(method, task)
        if method == "floss":  # one pair of densities is tuned and serves all of them
            own |= floss(1 / 4, 1 / 16)
        stage = "tuning" if method in COMPARED else "seed-0"
        for client_lr, server_lr in itertools.product(CLIENT_LRS, SERVER_LRS):
            settings = own | {
                "client.lr": client_lr, "server.lr": server_lr, "data.evaluate-on": "validation",
                "data.eval-examples": 500, "run.rounds": TRIAL_ROUNDS, "round.evaluate-every": 10,
            }  # fmt: skip
            settings |= BASE if stage != "tuning" else {}
            name = f"tune-{method}-{client_lr:g}-{server_lr:g}"
            yield Entry("tuning", stage, name, task, method, "dirichlet", 0, settings)


def compared(
    figure: str, task: str, methods: tuple[str, ...], seed: int, stage: str
) -> list[Entry]:
    """Return the runs of figure 5.1 (IID) or 5.2 (not) of one task and seed."""
    partition = "iid" if figure == "5.1" else TASKS[task].unlike
    found = []
    for method in methods:
        own = method_settings(method, task)
        name = run_name(task, partition, label(method, own), seed)
        settings = own | where(task, partition, seed)
        tuned = method if task == "20newsgroups" else ""
        found.append(Entry(figure, stage, name, task, method, partition, seed, settings, tuned))
    return found


def floss_entry(
    figure: str, rank: int, down: str, up: str, rounds: int,
    extra: Mapping[str, Any] | None = None, seed: int = 0,
) -> Entry:  # fmt: skip
    """Return a run of FLoSS on bench-S with Dirichlet clients; density 1 both ways is dense.

    Parameters
    ----------
    down, up : densities by their names in DENSITIES.
    extra : options of FLoSS by key.
    """
    task, extra = "20newsgroups", dict(extra or {})
    if down == up == "1":
        own, method = {"strategy.name": "dense"}, "dense" if rank == 16 else "rank-4"
    else:
        own, method = floss(DENSITIES[down], DENSITIES[up]), "floss"
    own |= at_rank(task, rank)
    suffix = "".join(f"-{key.rpartition('.')[2]}-{value}".lower() for key, value in extra.items())
    name = run_name(task, "dirichlet", label(method, own) + suffix, seed)
    settings = own | extra | where(task, "dirichlet", seed) | {"run.rounds": rounds}
    stage = "seeds" if seed else "seed-0"
    return Entry(figure, stage, name, task, method, "dirichlet", seed, settings, method)


def label(method: str, own: Mapping[str, Any]) -> str:
    """Return what a run's name says of its method."""
    if own["strategy.name"] == "floss":
        names = {value: name for name, value in DENSITIES.items()}
        down, up = (names[own[f"strategy.d-{way}"]] for way in ("down", "up"))
        return f"floss-r{own['lora.rank']}-d{down}-u{up}"
    if own["strategy.name"] == "dense":
        return f"dense-r{own['lora.rank']}"
    return method


def run_name(task: str, partition: str, label: str, seed: int) -> str:
    """Return the name of a run."""
    return f"{TASKS[task].short}-{partition}-{label}-s{seed}"


def where(task: str, partition: str, seed: int) -> Settings:
    """Return the settings of a run that are not its method's."""
    chosen: Settings = {"partition.name": partition, "run.seed": seed}
    if partition == "dirichlet":
        chosen["partition.alpha"] = 0.1
    return BASE | chosen | {"run.rounds": TASKS[task].base()["run.rounds"]}


OPTIONS: tuple[Settings, ...] = ({"strategy.error-feedback": True}, {"strategy.mean": "senders"})
# Of 350 clients those that come in 100 rounds do so twice on average; of 20 each comes 25 times.
# Two batches each make a round cost what it costs there.
FEW: Settings = {"partition.clients": 20, "client.steps": 2}


def entries() -> list[Entry]:
    """Return the whole table, the most telling runs first."""
    tuning = list(trials())
    rows = [entry for entry in tuning if entry.stage == "tuning"]
    for figure in ("5.2", "5.1"):
        rows += compared(figure, "20newsgroups", COMPARED, 0, "seed-0")
    rows += [floss_entry("5.3", r, d, d, ROUNDS) for d in DENSITIES for r in RANKS]
    # A run of its own, so that dense is evaluated when the budget ends.
    often = {"round.evaluate-every": 10}
    rows += [floss_entry("5.4", 16, "1", "1", BUDGET_ROUNDS, often)]
    rows += [floss_entry("5.4", 16, "4", up, LONG) for up in ("4", "16", "64")]
    for few, up in ((FEW, "16"), (FEW, "64"), ({}, "16"), ({}, "64"), ({}, "4")):
        rows += [floss_entry("options", 16, "4", up, ROUNDS, few | x) for x in ({}, *OPTIONS)]
    rows += [entry for entry in tuning if entry.stage != "tuning"]
    for figure in ("5.2", "5.1"):
        rows += compared(figure, "20newsgroups", OTHERS, 0, "others")
    for seed, figure in itertools.product(SEEDS[1:], ("5.2", "5.1")):
        rows += compared(figure, "20newsgroups", COMPARED, seed, "seeds")
    # The two points of 5.3 that cost the least for what they reach: one seed would flatter them.
    for seed, (rank, d) in itertools.product(SEEDS[1:], ((16, "16"), (4, "4"))):
        rows.append(floss_entry("seeds", rank, d, d, ROUNDS, seed=seed))
    for task, figure in itertools.product(("cifar10", "shakespeare"), ("5.2", "5.1")):
        rows += compared(figure, task, COMPARED + OTHERS, 0, "tasks")
    return sorted(rows, key=lambda entry: STAGES.index(entry.stage))
