"""Legal payloads that take the most to decode: at most 2.5 dense vectors beside the sum.

Every mode, at densities and codes that no encoder of ours would choose, through the same door as a
reply: bounds, decoding, checks, norm, and the block-wise fold.
"""

import tracemalloc

import numpy as np
import pytest

from fedllm_app.core.job import Job, Reply, Request, TrainMetrics
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan, TopK
from fedllm_app.core.support import Derived
from fedllm_app.run.ledger import Ledger
from fedllm_app.server.aggregate import Mean
from fedllm_app.server.asked import asked_for
from fedllm_app.server.clip import Bound, Clip
from fedllm_app.server.intake import Intake
from fedllm_app.wire import header as front
from fedllm_app.wire import positions as where
from fedllm_app.wire.codec import WireSettings
from fedllm_app.wire.quantize import pack_marked, value_bytes
from fedllm_app.wire.sliced import encode_sliced
from fedllm_app.wire.slices import slices_of

BASE = "cd" * 16
LAYOUT = ParamLayout(
    tuple(f"{i}.lora_{m}.weight" for i in range(20) for m in "AB"),
    ((16, 3072), (3072, 16)) * 20,
)
P = LAYOUT.size
DENSE = 4 * P
MOST = 2.5
ALMOST, HALF, FEW = P - 1, P // 2, P // 16


def payload(mode, K, value_type, section=None, rice_k=0, shortened=False, values=None):
    section = np.zeros(0, np.uint8) if section is None else section
    if values is None:
        values = np.zeros(value_bytes(K, value_type, 256), np.uint8)
    hashes = front.digest("layout", LAYOUT.hash), front.digest("base", BASE)
    words = front.Header(mode, value_type, 256, P, K, *hashes, section.size, rice_k, shortened)
    return np.concatenate([words.pack(), section, values])


def support(K):
    return np.sort(np.random.default_rng(K).choice(P, K, replace=False))


def bitmap(K, value_type):
    return payload(front.BITMAP, K, value_type, where.encode_bitmap(support(K), P))


def rice(K, value_type, k, shortened):
    gaps = (np.diff(support(K), prepend=-1) - 1).astype(np.uint32)
    unary = where._unary(gaps, k)
    code = where._shorten(unary) if shortened else np.packbits(unary, bitorder="little")
    section = where._rice_sections(code, gaps, k)
    return payload(front.RICE, K, value_type, section, k, shortened)


def sliced(K, value_type):
    section = encode_sliced(support(K), slices_of(LAYOUT), P, 1 << 62)
    return payload(front.SLICED, K, value_type, section)


def marked(K, value_type):
    data = np.zeros(value_bytes(P, value_type, 256, True), np.uint8)
    ones, rng = np.ones(K, np.float32), np.random.default_rng(0)
    pack_marked(ones, support(K), P, value_type, 256, rng, data)
    return payload(front.MARKED, K, value_type, values=data)


CASES = {
    "bitmap, almost all": lambda: bitmap(ALMOST, "fp32"),
    "marked, almost all": lambda: marked(ALMOST, "fp32"),
    "marked, almost all in q3": lambda: marked(ALMOST, "q3"),
    "marked, almost all in q2": lambda: marked(ALMOST, "q2"),
    "bitmap, half in q2": lambda: bitmap(HALF, "q2"),
    "sliced, almost all": lambda: sliced(ALMOST, "fp32"),
    "sliced, half": lambda: sliced(HALF, "q3"),
    "rice, almost all": lambda: rice(ALMOST, "fp32", 0, False),
    "rice, shortened, almost all": lambda: rice(ALMOST, "fp32", 0, True),
    "rice, k too large": lambda: rice(HALF, "q3", 8, False),
    "rice, shortened, few": lambda: rice(FEW, "q3", 0, True),
    "rice, shortened, few in q2": lambda: rice(FEW, "q2", 0, True),
}
ADAPTERS = Derived("tensors", {"without": ["none*"]})


@pytest.mark.parametrize("case", CASES)
def test_a_legal_payload_takes_at_most_so_many_dense_vectors(case, tmp_path):
    update = CASES[case]()
    K = front.read_header(update).K
    value_type = front.read_header(update).value_type
    # The whole of what a plan can ask for: chosen among some tensors, others always sent.
    plan = ClientPlan(up=TopK(K / P, ADAPTERS, None))
    request = Request("all", plan.to_json(), {}, (Job(1, "a"),), LAYOUT.hash, BASE, 1)
    (asked,) = asked_for(request, plan, LAYOUT, 0, WireSettings(up_values=value_type))
    expected = asked.vectors["params"]
    assert expected.count == K
    object.__setattr__(expected, "most_bytes", update.size)  # longer than ours would ever be
    mean = Mean(P, cohort=1)
    clip = Clip(Bound(), {"params": ((1.0,) * 10,)})
    ledger = Ledger(tmp_path / "ledger.jsonl")
    intake = Intake(1, [asked], {"params": mean}, lambda job, metrics: 1, ledger, clip)
    reply = Reply(1, "a", {"params": update}, TrainMetrics(1.0, 1, 1, 1))
    tracemalloc.start()
    intake.take(reply)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not intake.dropped
    assert mean.n == 1
    assert (peak + update.size) / DENSE < MOST
