"""What an upload of pre-training loses and costs, by how it is chosen and written.

    python -m benchmarks.studies.outer_values /data/pretraining/wikipedia/validation.parquet

A Llama of two layers takes two rounds of 30 steps of AdamW on the text. The change of the second is
the pseudo-gradient: for each choice (one top-k of all, or of each block) and each value type, what
share of its square is sent, what share of that is lost by rounding, and how long the payload is.
Tables per tensor are no type of the codec; they are worked out here, to know what they would give.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.markers import fill, printed
from benchmarks.record import ROOT, write_result
from benchmarks.rows.kernels import NO_BASE
from fedllm_app.core.layout import ParamLayout
from fedllm_app.wire.codec import decode, dense_bytes, encode, size_of
from fedllm_app.wire.select import top_positions
from fedllm_app.wire.slices import Origin, origin_of
from fedllm_app.wire.table import fitted_table
from fedllm_app.wire.tiles import block_positions

STEPS, BATCH, TOKENS, WORDS = 30, 16, 128, 4096
DENSITIES = {"1/16": 1 / 16, "1/64": 1 / 64, "1/128": 1 / 128}
TYPES = ("fp32", "int8", "q4", "q3", "q2")


def pseudo_gradient(texts: list[str]) -> tuple[np.ndarray, ParamLayout, list[float]]:
    """Return the change of the second round, its layout, and the loss at the end of each."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, WORDS, show_progress=False)
    ids = np.concatenate([np.array(found.ids, np.int64) for found in bpe.encode_batch(texts)])
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=256, intermediate_size=688, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
        )
    )  # fmt: skip
    weights = dict(model.named_parameters())
    layout = ParamLayout.of(weights.items())
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    rng, losses, change_P = np.random.default_rng(0), [], np.zeros(0, np.float32)
    for _ in range(2):
        start_P = layout.flatten(weights).numpy().copy()
        for _ in range(STEPS):
            first = rng.integers(0, ids.size - TOKENS, BATCH)
            batch = torch.from_numpy(np.stack([ids[at : at + TOKENS] for at in first]))
            loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
        losses.append(float(loss.detach()))
        change_P = start_P - layout.flatten(weights).numpy()
    return change_P, layout, losses


def measured(
    change_P: np.ndarray, at: np.ndarray, origin: Origin, value_type: str, nearest: bool
) -> dict[str, Any]:
    """Return energy, error and bytes of one way to write an upload."""
    rng = None if nearest else np.random.default_rng(0)
    payload = encode(change_P[at], at, origin, value_type=value_type, block=256, rng=rng)
    sent, size = change_P[at].astype(np.float64), size_of(payload)
    error = np.square(decode(payload, origin).values - sent).sum() / np.square(sent).sum()
    return {
        "rounding": "nearest" if nearest else "random",
        "error": float(error),
        "bytes": size.total,
        "position-bits": 8 * size.positions / at.size,
        "value-bits": 8 * size.values / at.size,
        "times-less-than-dense": dense_bytes(change_P.size) / size.total,
    }


def table_per_tensor(change_P: np.ndarray, at: np.ndarray, layout: ParamLayout, L: int) -> float:
    """Return the share that a fitted table of L magnitudes for each tensor loses."""
    tensor_K = np.searchsorted(layout.offsets, at, side="right") - 1
    size_K, lost = np.abs(change_P[at]).astype(np.float64), 0.0
    for tensor in np.unique(tensor_K):
        own = size_K[tensor_K == tensor]
        level_L = fitted_table(own.astype(np.float32), L)
        lost += float(np.square(own - level_L[np.abs(own[:, None] - level_L).argmin(1)]).sum())
    return lost / float(np.square(size_K).sum())


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path, help="a .parquet file with a column text")
    texts = pq.read_table(parser.parse_args().text)["text"].to_pylist()
    torch.set_num_threads(1)
    change_P, layout, losses = pseudo_gradient(texts)
    origin, whole = origin_of(layout, NO_BASE), float(np.square(change_P, dtype=np.float64).sum())
    rows: list[dict[str, Any]] = []
    for name, density in DENSITIES.items():
        for top_k in ("global", "block"):
            if top_k == "global":
                at = top_positions(change_P, density)
            else:
                at = block_positions(change_P, density, 64, layout)
            energy = float(np.square(change_P[at], dtype=np.float64).sum()) / whole
            for value_type in TYPES:
                for nearest in (True, False) if value_type[0] in "iq" else (True,):
                    row = {"density": name, "top-k": top_k, "energy": energy, "values": value_type}
                    row |= measured(change_P, at, origin, value_type, nearest)
                    if nearest and value_type in ("q4", "q3", "q2"):
                        L = {"q4": 8, "q3": 4, "q2": 2}[value_type]
                        row["error-with-a-table-per-tensor"] = table_per_tensor(
                            change_P, at, layout, L
                        )
                        row["error-with-a-table-per-section"] = section_table(change_P[at], L)
                    rows.append(row)
                    print(row, flush=True)
    settings = {"parameters": layout.size, "tensors": len(layout.names), "steps": STEPS,
                "losses": losses, "text": "wikipedia/validation.parquet"}  # fmt: skip
    write_result("outer-values", settings, rows)
    fill(ROOT / "docs" / "pretraining.md", {"outer-values": printed(table(rows, "1/64"))})


def table(rows: list[dict[str, Any]], density: str) -> list[list[str]]:
    """Return the rows of one density as a table."""
    found = [["top-k", "energy sent", "values", "lost at random", "lost to the nearest",
              "bits a position", "bits a value", "bytes", "less than dense fp32"]]  # fmt: skip
    for top_k in ("global", "block"):
        for value_type in TYPES:
            both = {
                row["rounding"]: row
                for row in rows
                if (row["density"], row["top-k"], row["values"]) == (density, top_k, value_type)
            }
            row = both["nearest"]
            lost = f"{both['random']['error']:.2%}" if "random" in both else ""
            found.append([
                top_k, f"{row['energy']:.1%}", value_type, lost, f"{row['error']:.2%}",
                f"{row['position-bits']:.2f}", f"{row['value-bits']:.2f}", f"{row['bytes']:,}",
                f"{row['times-less-than-dense']:.0f}x",
            ])  # fmt: skip
    return found


def section_table(values_K: np.ndarray, L: int) -> float:
    """Return the share that one fitted table of L magnitudes loses."""
    level_L, size_K = fitted_table(values_K, L), np.abs(values_K).astype(np.float64)
    nearest_K = np.searchsorted((level_L[1:] + level_L[:-1]) / 2, size_K)
    return float(np.square(size_K - level_L[nearest_K]).sum() / np.square(size_K).sum())


if __name__ == "__main__":
    main()
