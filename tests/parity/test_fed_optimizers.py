"""Three rounds of each optimizer equal a plain script of its paper's algorithm, line by line.

The script knows torch, transformers and the run's seeds, and nothing of codec, plan, loop, mean or
flat vector. Each is written as its paper has it, also where this project computes it otherwise.
"""

import numpy as np
import pytest
import small
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fedllm_app.core.seeds import derive_seed, generator
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local
from fedllm_app.server.methods import STRATEGIES

Tensors = dict[str, Tensor]
ROUNDS, BATCH, LR = 3, 4, 0.05
MU, BETA, BETA1, BETA2, TAU, ETA = 0.5, 0.8, 0.9, 0.99, 1e-3, 0.01
BESIDE = {"scaffold": {"control"}, "mimelite": {"momentum", "gradient"}}
METHODS = {
    "fedavg": {},
    "fedadam": {},
    "fedyogi": {},
    "fedadagrad": {},
    "fedprox": {"client": {"rule-args": f"mu={MU}"}},
    "scaffold": {},
    "mimelite": {"strategy": {"momentum": BETA}},
}


def config(folder, name, run):
    keys = METHODS[name]
    return small.config(
        folder,
        model={"source": str(folder / "model"), "train": "full"},
        client={"lr": LR, "momentum": 0.0, "batch": BATCH} | keys.get("client", {}),
        strategy={"name": name} | keys.get("strategy", {}),
        # No `server` keys: a method's own are under test.
        server={"lr": 0.0},
        round={"clients": 4, "clip": "off", "evaluate-every": 0},
        run={"name": run, "rounds": ROUNDS, "checkpoint-every": ROUNDS},
    )


class Script:
    """The algorithms over named tensors.

    Attributes
    ----------
    x : parameters after the last round.
    """

    def __init__(self, folder, name: str, initial: Tensors) -> None:
        self.name = name
        self.model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        self.weights = dict(self.model.named_parameters())
        rows = small.rows(folder / "train.jsonl")
        self.data = {c: [r for r in rows if r["user"] == c] for c in (*small.SIZES, small.BROKEN)}
        self.x = {n: initial[n].clone() for n in self.weights}
        self.c, self.m = self.like(0.0), self.like(0.0)
        self.v = self.like(TAU**2)
        self.own: dict[str, Tensors] = {}
        for t in range(1, ROUNDS + 1):
            cohort = self.cohort(t)
            before = {k: self.own.get(k, self.like(0.0)) for k in cohort}
            first = {k: self.gradient(k, self.x) for k in cohort} if name == "mimelite" else {}
            local = {k: self.train(t, k) for k in cohort}
            by_size = name in ("fedavg", "fedprox")
            share = {k: len(self.data[k]) if by_size else 1 for k in cohort}
            for n in self.x:
                delta = sum(share[k] * (local[k][n] - self.x[n]) for k in cohort)
                self.step(n, delta / sum(share.values()))
                if name == "scaffold":  # c <- c + |S| / N * mean of c_i+ - c_i
                    self.c[n] += sum(self.own[k][n] - before[k][n] for k in cohort) / len(self.data)
                if name == "mimelite":  # s <- V(mean of the gradients at x, s)
                    mean = sum(first[k][n] for k in cohort) / len(cohort)
                    self.m[n] = (1 - BETA) * mean + BETA * self.m[n]

    def like(self, value: float) -> Tensors:
        return {n: torch.full_like(p, value) for n, p in self.x.items()}

    def step(self, n: str, delta: Tensor) -> None:
        """Take the server's step on the mean of y - x."""
        if self.name not in ("fedadam", "fedyogi", "fedadagrad"):
            self.x[n] = self.x[n] + delta
            return
        beta1 = 0.0 if self.name == "fedadagrad" else BETA1
        self.m[n] = beta1 * self.m[n] + (1 - beta1) * delta
        v, square = self.v[n], delta**2
        self.v[n] = {
            "fedadagrad": v + square,
            "fedyogi": v - (1 - BETA2) * square * torch.sign(v - square),
            "fedadam": BETA2 * v + (1 - BETA2) * square,
        }[self.name]
        self.x[n] = self.x[n] + ETA * self.m[n] / (self.v[n].sqrt() + TAU)

    def train(self, t: int, client: str) -> Tensors:
        """Return y of one client after its local steps."""
        self.put(self.x)
        torch.manual_seed(derive_seed(small.SEED, "train", t, client))
        rows, steps = self.data[client], 0
        own = self.own.get(client, self.like(0.0))
        order = generator(small.SEED, "batches", t, client).permutation(len(rows))
        for batch in np.split(order, range(BATCH, len(order), BATCH)):
            self.model.zero_grad()
            self.loss([rows[i] for i in batch]).backward()
            steps += 1
            with torch.no_grad():
                for n, y in self.weights.items():
                    g, lr = y.grad, LR
                    if self.name == "fedprox":  # the gradient of mu / 2 |y - x|^2
                        g = g + MU * (y - self.x[n])
                    if self.name == "scaffold":
                        g = g - own[n] + self.c[n]
                    if self.name == "mimelite":  # U(g, s), of the same rate in torch's momentum
                        g, lr = (1 - BETA) * g + BETA * self.m[n], LR / (1 - BETA)
                    y -= lr * g
        y = {n: w.detach().clone() for n, w in self.weights.items()}
        # c_i+ <- c_i - c + (x - y) / (K lr)
        self.own[client] = {
            n: own[n] - self.c[n] + (self.x[n] - y[n]) / (steps * LR) for n in self.x
        }
        return y

    def gradient(self, client: str, at: Tensors) -> Tensors:
        """Return the gradient of the mean loss of all of a client's rows."""
        self.put(at)
        self.model.zero_grad()
        self.loss(self.data[client]).backward()
        return {n: w.grad.clone() for n, w in self.weights.items()}

    def put(self, values: Tensors) -> None:
        self.model.train()
        with torch.no_grad():
            for n, w in self.weights.items():
                w.copy_(values[n])

    def cohort(self, t: int) -> list[str]:
        """Return the clients of round t that answer."""
        everybody = sorted(self.data)
        drawn = generator(small.SEED, "cohort", t).choice(len(everybody), size=4, replace=False)
        return [everybody[i] for i in sorted(drawn) if everybody[i] != small.BROKEN]

    def loss(self, rows) -> Tensor:
        """Return the mean loss."""
        inputs = self.tokenizer([r["text"] for r in rows], padding=True, return_tensors="pt")
        labels = torch.tensor([small.LABELS.index(r["label"]) for r in rows])
        logits = self.model(inputs["input_ids"], inputs["attention_mask"]).logits
        return cross_entropy(logits, labels)


@pytest.mark.parametrize("name", METHODS)
def test_three_rounds_equal_the_paper(folder, name):
    asked = config(folder, name, f"paper-{name}")
    parts = Parts(asked, Place(folder / "home"))
    # A device reads the run-config as it was given, and finds the rule of the method by itself.
    assert parts.device(folder).settings.rule == STRATEGIES[name].rule
    layout = parts.model.layout
    initial = torch.from_numpy(parts.initial)
    script, run = Script(folder, name, layout.unflatten(initial)), run_local(asked)
    found = layout.unflatten(small.state(run)["params"])
    assert found.keys() == script.x.keys()
    for n, x in script.x.items():
        torch.testing.assert_close(found[n], x, rtol=0, atol=1e-6)
    assert float((small.state(run)["params"] - initial).abs().max()) > 0.01
    # What travels beside the parameters is counted apart.
    beside = {r["vector"] for r in small.lines(run, "ledger.jsonl") if "vector" in r}
    assert beside == {"scaffold": {"control"}, "mimelite": {"momentum", "gradient"}}.get(
        name, set()
    )
