"""Three rounds of FLoSS equal a plain script of Algorithm 1 (Raje 2024), line by line.

The script below knows torch, transformers, peft and the run's seeds, and nothing of the codec,
plan, loop, mean or flat vector: tensors have their names, a mask is a product, a mean is a mean.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fedllm_app.core.seeds import derive_seed, generator
from fedllm_app.play import run_local

Tensors = dict[str, Tensor]
CLOSE = 1e-6


def joined(tensors: Tensors) -> Tensor:
    """Return all entries end to end."""
    return torch.cat([t.flatten() for t in tensors.values()])


def top(tensors: Tensors, d: float) -> Tensors:
    """Keep the `d` fraction of largest magnitude, one threshold over all tensors together."""
    flat = joined(tensors).abs()
    k = max(1, math.floor(d * flat.numel() + 0.5))
    threshold = flat.topk(k).values[-1]
    return {name: t * (t.abs() >= threshold) for name, t in tensors.items()}


class Script:
    """Algorithm 1 over per-tensor parameters.

    Attributes
    ----------
    P : dense parameters after the last round. server : torch's Adam over them.
    masked : what devices would receive next.
    losses, norms : mean training loss per example, and norm of the pseudo-gradient, by round.
    evaluations : (loss, accuracy) of the masked model, before round 1 and after every round.
    """

    def __init__(self, folder: Path, d_down: float, d_up: float, dropout=0.0, eps=1e-8) -> None:
        base = AutoModelForSequenceClassification.from_pretrained(folder / "model")
        torch.manual_seed(derive_seed("adapters", small.SEED))
        lora = LoraConfig(
            r=4,
            lora_alpha=8,
            lora_dropout=dropout,
            target_modules=["query", "value"],
            modules_to_save=["classifier"],
            task_type="SEQ_CLS",
        )
        self.model = get_peft_model(base, lora)
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        self.weights = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        rows = small.rows(folder / "train.jsonl")
        self.data = {c: [r for r in rows if r["user"] == c] for c in (*small.SIZES, small.BROKEN)}
        self.test = small.rows(folder / "test.jsonl")
        self.losses, self.norms, self.evaluations = [], [], []

        # P = trainable parameters; server optimizer Adam over P, dense, never masked itself
        self.P = {n: p.detach().clone() for n, p in self.weights.items()}
        self.server = torch.optim.Adam(self.P.values(), lr=small.SERVER_LR, eps=eps)
        self.masked = top(self.P, d_down)
        self.evaluate()
        for t in (1, 2, 3):
            deltas, loss_sum, examples = [], 0.0, 0
            for client in self.cohort(t):
                # P_i = P * M_down; P_i' = one epoch of SGD on ALL entries of P_i
                loss_sum += self.train(t, client)
                examples += len(self.data[client])
                # D_i = P_i - P_i', against the MASKED copy; its top d_up, by a mask of its own
                delta = {n: self.masked[n] - w.detach() for n, w in self.weights.items()}
                deltas.append(top(delta, d_up))
            # pseudo-gradient = (1/n) sum D_i, uniform; one Adam step on P
            for n, p in self.P.items():
                p.grad = torch.stack([delta[n] for delta in deltas]).mean(0)
            self.server.step()
            self.losses.append(loss_sum / examples)
            self.norms.append(joined({n: p.grad for n, p in self.P.items()}).norm().item())
            # M_down = top d_down fraction of abs(P), taken afresh
            self.masked = top(self.P, d_down)
            self.evaluate()

    def cohort(self, t: int) -> list[str]:
        """Return the clients of round t that answer; a reply that never comes is not in n."""
        everybody = sorted(self.data)
        drawn = generator(small.SEED, "cohort", t).choice(len(everybody), size=4, replace=False)
        return [everybody[i] for i in sorted(drawn) if everybody[i] != small.BROKEN]

    def train(self, t: int, client: str) -> float:
        """Train the model from the masked parameters; return the loss summed over examples."""
        self.put_in(self.masked)
        torch.manual_seed(derive_seed(small.SEED, "train", t, client))
        self.model.train()
        sgd = torch.optim.SGD(self.weights.values(), lr=small.CLIENT_LR, momentum=0.9)
        rows, total = self.data[client], 0.0
        order = generator(small.SEED, "batches", t, client).permutation(len(rows))
        for batch in np.split(order, range(4, len(order), 4)):
            sgd.zero_grad()
            loss = self.loss([rows[i] for i in batch])[0]
            loss.backward()
            sgd.step()
            total += loss.item() * len(batch)
        return total

    def loss(self, rows: list[dict[str, str]]) -> tuple[Tensor, Tensor]:
        """Return the mean loss and the number of right answers."""
        inputs = self.tokenizer([r["text"] for r in rows], padding=True, return_tensors="pt")
        labels = torch.tensor([small.LABELS.index(r["label"]) for r in rows])
        logits = self.model(inputs["input_ids"], inputs["attention_mask"]).logits
        return cross_entropy(logits, labels), (logits.argmax(1) == labels).sum()

    def evaluate(self) -> None:
        """Measure the model that devices would receive."""
        self.put_in(self.masked)
        self.model.eval()
        with torch.no_grad():
            loss, right = self.loss(self.test)
        self.evaluations.append((loss.item(), right.item() / len(self.test)))

    def put_in(self, values: Tensors) -> None:
        """Set the model's trainable tensors."""
        with torch.no_grad():
            for n, w in self.weights.items():
                w.copy_(values[n])

    def saved(self, values: Tensors) -> Tensors:
        """Return tensors under the names and in the order that PEFT saves them."""
        self.put_in(values)
        return {n: t.clone() for n, t in get_peft_model_state_dict(self.model).items()}

    def moments(self, kind: str) -> Tensors:
        """Return one of Adam's two states by tensor."""
        return {n: self.server.state[p][kind] for n, p in self.P.items()}


def assert_equal(script: Script, run: Path) -> None:
    """Compare the state, what was measured on the way, and the result of a run with the script."""
    state = small.state(run)
    params = joined(script.saved(script.P))
    torch.testing.assert_close(state["params"], params, rtol=0, atol=CLOSE)
    for kind in ("exp_avg", "exp_avg_sq"):
        moment = joined(script.saved(script.moments(kind)))
        # The moments are small numbers: held to their own size.
        limit = CLOSE * float(moment.abs().max())
        torch.testing.assert_close(state[f"optimizer.{kind}"], moment, rtol=1e-5, atol=limit)
    assert state["optimizer.step"] == 3

    begin, *rounds = small.lines(run, "metrics.jsonl")
    near = {"rel": 0, "abs": CLOSE}
    assert [r["train-loss"] for r in rounds] == pytest.approx(script.losses, **near)
    assert [r["update-norm"] for r in rounds] == pytest.approx(script.norms, **near)
    measured = [(r["evaluation"]["loss"], r["evaluation"]["accuracy"]) for r in (begin, *rounds)]
    np.testing.assert_allclose(measured, script.evaluations, rtol=0, atol=CLOSE)

    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    masked = script.saved(script.masked)
    assert adapter.keys() == masked.keys()
    for name, tensor in masked.items():
        torch.testing.assert_close(adapter[name], tensor, rtol=0, atol=CLOSE)
        assert torch.equal(adapter[name] == 0, tensor == 0)


@pytest.mark.parametrize(
    ("d_down", "d_up", "dropout", "eps"),
    [
        (1 / 4, 1 / 4, 0.0, 1e-8),
        (1 / 4, 1 / 16, 0.1, 1e-8),
        # Sent as well are changes in the last bit of a weight, where the two sides differ by the
        # order of a sum in BLAS; a small eps would blow them up to whole steps of Adam.
        (1.0, 1.0, 0.0, 5e-3),
    ],
)
def test_three_rounds_equal_the_script(folder, d_down, d_up, dropout, eps):
    run = run_local(
        small.config(
            folder,
            strategy={"d-down": d_down, "d-up": d_up},
            lora={"dropout": dropout},
            server={"eps": eps},
            run={"name": f"oracle-{d_up}-{dropout}"},
        )
    )
    assert_equal(Script(folder, d_down, d_up, dropout, eps), run)


def test_everything_sent_is_dense_fedadam_to_the_bit(folder):
    runs = [
        run_local(small.config(folder, strategy=strategy, run={"name": strategy["name"]}))
        for strategy in ({"name": "floss", "d-down": 1.0, "d-up": 1.0}, {"name": "dense"})
    ]
    assert small.same_bits(*map(small.state, runs))
    for name in ("metrics.jsonl", "ledger.jsonl"):
        first, second = ((run / name).read_bytes() for run in runs)
        assert first == second


def test_the_run_that_flower_is_held_to_equals_the_script(folder, local_run):
    assert_equal(Script(folder, small.FLOSS["d-down"], small.FLOSS["d-up"]), local_run)
