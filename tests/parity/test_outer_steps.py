"""Three rounds of photon, diloco and sparse-diloco equal a plain script of each, line by line.

The script knows torch, transformers and the run's seeds, and nothing of codec, plan, loop, mean or
flat vector: tensors have their names, and a block is a slice of one.
"""

import numpy as np
import pytest
import small
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fedllm_app.config import RunConfig
from fedllm_app.core.seeds import derive_seed, generator
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local

Tensors = dict[str, Tensor]
H, BATCH, SIDE, BETA, F, ALPHA = 3, 4, 8, 0.5, 2, 0.25
CLIENT = {
    "optimizer": "adamw", "lr": 0.02, "eps": 1e-2, "weight-decay": 0.1, "steps": H, "batch": BATCH,
    "clip-norm": 1.0, "decay-all": False,
}  # fmt: skip
METHODS = {
    "photon": {},
    "diloco": {},
    "sparse-diloco": {"d-up": 1 / 16, "block": SIDE, "feedback-decay": BETA},
    "streaming-diloco": {"fragments": F, "mixing": ALPHA},
}


def config(folder, name, run, **strategy):
    keys = METHODS[name] | strategy
    return small.config(
        folder,
        model={"source": str(folder / "model"), "train": "full"},
        client=CLIENT,
        strategy={"name": name} | keys,
        # No `server` keys: a method's own are under test.
        server={"lr": 0.0},
        round={"clients": 4, "clip": "off"},
        run={"name": run, "rounds": rounds(name)},
    )


class Script:
    """The three algorithms over named tensors.

    Attributes
    ----------
    P : parameters after the last round.
    """

    def __init__(self, folder, name: str, initial: Tensors) -> None:
        self.model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        self.weights = dict(self.model.named_parameters())
        rows = small.rows(folder / "train.jsonl")
        self.data = {c: [r for r in rows if r["user"] == c] for c in (*small.SIZES, small.BROKEN)}
        self.P = {n: initial[n].clone() for n in self.weights}
        m = {n: torch.zeros_like(p) for n, p in self.P.items()}
        e: dict[str, Tensors] = {}
        self.own: dict[str, tuple[Tensors, Tensors]] = {}
        self.last: dict[str, int] = {}
        for t in range(1, rounds(name) + 1):
            deltas, weights = [], []
            for client in self.cohort(t):
                base = start = self.P
                if name == "streaming-diloco" and self.last.get(client) == t - 1:
                    # Only a fragment comes down; the rest of the device's own is kept.
                    own, base = self.own[client]
                    here = [n for n in self.P if layer(n) % F == t % F]
                    base = base | {n: self.P[n] for n in here}
                    start = own | {n: ALPHA * own[n] + (1 - ALPHA) * self.P[n] for n in here}
                seen = self.train(t, client, start)
                delta = {n: base[n] - w.detach() for n, w in self.weights.items()}
                own = {n: w.detach().clone() for n, w in self.weights.items()}
                self.own[client], self.last[client] = (own, base), t
                if name == "sparse-diloco":
                    # e <- beta e + delta ; s = the largest of every block of e ; e <- e - s
                    own = e.setdefault(client, {n: torch.zeros_like(p) for n, p in self.P.items()})
                    for n in own:
                        own[n] = BETA * own[n] + delta[n]
                    delta = {n: top_of_blocks(v) for n, v in own.items()}
                    for n in own:
                        own[n] = own[n] - delta[n]
                deltas.append(delta)
                weights.append(seen if name == "photon" else 1)
            for n, p in list(self.P.items()):
                if name == "streaming-diloco" and layer(n) % F != (t + 1) % F:
                    continue
                sent = torch.stack([d[n] for d in deltas])
                share = torch.tensor(weights, dtype=torch.float32).reshape(-1, *[1] * p.ndim)
                if name == "sparse-diloco":  # the mean over those who sent a coordinate
                    share = share * (sent != 0)
                g = (share * sent).sum(0) / share.sum(0).clamp(min=1)
                if name in (
                    "diloco",
                    "streaming-diloco",
                ):  # Nesterov: m <- 0.9 m + g ; P <- P - 0.7 (g + 0.9 m)
                    m[n] = 0.9 * m[n] + g
                    g = 0.7 * (g + 0.9 * m[n])
                self.P[n] = p - g

    def cohort(self, t: int) -> list[str]:
        """Return the clients of round t that answer."""
        everybody = sorted(self.data)
        drawn = generator(small.SEED, "cohort", t).choice(len(everybody), size=4, replace=False)
        return [everybody[i] for i in sorted(drawn) if everybody[i] != small.BROKEN]

    def train(self, t: int, client: str, start: Tensors) -> int:
        """Take H steps of AdamW; return the number of examples seen."""
        with torch.no_grad():
            for n, w in self.weights.items():
                w.copy_(start[n])
        torch.manual_seed(derive_seed(small.SEED, "train", t, client))
        self.model.train()
        wide = [w for w in self.weights.values() if w.ndim > 1]
        rest = [w for w in self.weights.values() if w.ndim < 2]
        optimizer = torch.optim.AdamW(
            [{"params": wide, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
            lr=0.02, eps=1e-2,
        )  # fmt: skip
        rows, seen, done = self.data[client], 0, 0
        rng = generator(small.SEED, "batches", t, client)
        while done < H:
            order = rng.permutation(len(rows))
            for batch in np.split(order, range(BATCH, len(order), BATCH)):
                if done == H:
                    break
                optimizer.zero_grad()
                self.loss([rows[i] for i in batch]).backward()
                torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
                optimizer.step()
                seen, done = seen + len(batch), done + 1
        return seen

    def loss(self, rows) -> Tensor:
        """Return the mean loss."""
        inputs = self.tokenizer([r["text"] for r in rows], padding=True, return_tensors="pt")
        labels = torch.tensor([small.LABELS.index(r["label"]) for r in rows])
        logits = self.model(inputs["input_ids"], inputs["attention_mask"]).logits
        return cross_entropy(logits, labels)


def rounds(name: str) -> int:
    """Return how many rounds are played: enough for a fragment to come down twice."""
    return 4 if name == "streaming-diloco" else 3


def layer(name: str) -> int:
    """Return the number of the layer that a tensor is of, 0 for none."""
    return 1 if ".1." in name else 0


def top_of_blocks(values: Tensor) -> Tensor:
    """Keep the largest sixteenth of every block."""
    kept = torch.zeros_like(values)
    if values.ndim == 1:
        cuts = [slice(a, a + SIDE * SIDE) for a in range(0, len(values), SIDE * SIDE)]
    else:
        cuts = [
            (slice(a, a + SIDE), slice(b, b + SIDE))
            for a in range(0, values.shape[0], SIDE)
            for b in range(0, values.shape[1], SIDE)
        ]
    for cut in cuts:
        block = values[cut]
        k = max(1, int(block.numel() / 16 + 0.5))
        chosen = block.abs().flatten().sort(descending=True, stable=True).indices[:k]
        mask = torch.zeros(block.numel(), dtype=torch.bool)
        mask[chosen] = True
        kept[cut] = block * mask.reshape(block.shape)
    return kept


@pytest.mark.parametrize("name", METHODS)
def test_three_rounds_equal_the_script(folder, name):
    asked = config(folder, name, f"outer-{name}")
    parts = Parts(asked, Place(folder / "home"))
    layout = parts.model.layout
    initial = torch.from_numpy(parts.initial)
    script, run = Script(folder, name, layout.unflatten(initial)), run_local(asked)
    found = layout.unflatten(small.state(run)["params"])
    assert found.keys() == script.P.keys()
    for n, p in script.P.items():
        torch.testing.assert_close(found[n], p, rtol=0, atol=1e-6)
    assert float((small.state(run)["params"] - initial).abs().max()) > 0.01


def test_everything_sent_in_fp32_is_diloco_without_momentum_to_the_bit(folder):
    sparse = {"d-up": 1.0, "feedback-decay": 0.95}
    plain = config(folder, "diloco", "all-plain").flat()
    plain |= {"strategy.name": "dense", "server.optimizer": "sgd", "server.lr": 1.0}
    runs = [
        run_local(config(folder, "sparse-diloco", "all-sparse", **sparse)),
        run_local(RunConfig.parse(plain)),
    ]
    assert small.same_bits(*map(small.state, runs))
