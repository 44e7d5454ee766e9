"""Memory of processes that each hold one base with adapters, by what its checkpoint is stored as.

    python -m benchmarks.studies.base_memory MODEL         MODEL: a folder or .gguf file

1, 2 or 4 processes load the base, put LoRA (rank 8) on all linear layers, train a step, and wait
until all have. Each then reads its own proportional set size: of a page that n processes share, a
n-th counts. `copied` is what transformers alone does, `mapped` what `load_backbone` does. The
result goes to benchmarks/results/base-memory.json.
"""

import argparse
import multiprocessing
import tempfile
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from benchmarks.record import write_result

B, T = 1, 32
# What the checkpoint is stored as, model.dtype, and how many processes hold it.
CASES = [("bfloat16", "float32", (1, 2, 4)), ("float32", "float32", (2,))]
READ = {"Pss": "pss", "Pss_Anon": "anonymous", "Pss_File": "file", "Rss": "rss"}
MEANING = {
    "pss-mb": "sum over the processes: of a page that n of them share, each has an n-th",
    "anonymous-mb": "of that, memory that no file backs",
    "file-mb": "of that, pages of files: weights that are mapped, and libraries",
    "rss-mb": "sum of what each process sees in memory, shared pages once for each",
}


def memory() -> dict[str, float]:
    """Return the memory of this process in MB."""
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines())
    sizes = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1
             and words[1].isdigit()}  # fmt: skip
    return {f"{name}-mb": sizes[key] * 1024 / 1e6 for key, name in READ.items()}


def hold(
    source: str, cache: str, dtype: str, mapped: bool, ready: Barrier,
    out: "Queue[dict[str, float]]",
) -> None:  # fmt: skip
    """Load, train, and measure while the others hold theirs too."""
    import torch

    from fedllm_app.models import mapped as mapping
    from fedllm_app.models.adapter import wrap
    from fedllm_app.models.backbone import load_backbone
    from fedllm_app.models.settings import LoraSettings, ModelSettings

    torch.set_num_threads(1)
    if not mapped:
        mapping.LEAST = 1 << 60
    settings = ModelSettings.model_validate({"source": source, "dtype": dtype})
    backbone = load_backbone(settings, source, "next-token", [], Path(cache))
    lora = LoraSettings(rank=8, targets="all-linear", dropout=0.0)
    model = wrap(backbone, settings, lora, 0)
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(10, backbone.config.vocab_size, (B, T), generator=rng)
    model.backbone(input_ids=ids, labels=ids).loss.backward()
    model.flat.data.sub_(model.grad, alpha=0.01)
    ready.wait()
    out.put(memory())
    ready.wait()


def measure(count: int, *held: Any) -> dict[str, Any]:
    """Return the sums over processes that hold a base at once."""
    spawn = multiprocessing.get_context("spawn")
    ready, out = spawn.Barrier(count), spawn.Queue()
    processes = [spawn.Process(target=hold, args=(*held, ready, out)) for _ in range(count)]
    for process in processes:
        process.start()
    found = [out.get(timeout=1800) for _ in processes]
    for process in processes:
        process.join()
    return {f"{name}-mb": round(sum(one[f"{name}-mb"] for one in found)) for name in READ.values()}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    asked = parser.parse_args()
    from fedllm_app.models.backbone import DTYPES, local_source
    from fedllm_app.models.suits import auto_model

    rows = []
    with tempfile.TemporaryDirectory(prefix="base-memory-") as name:
        folder = Path(name)
        source = local_source(str(asked.model.absolute()), folder / "cache")
        for dtype in {stored for stored, *_ in CASES}:
            model = auto_model("next-token").from_pretrained(source, dtype=DTYPES[dtype])
            model.save_pretrained(folder / dtype)
            parameters = model.num_parameters()
        del model
        for stored, dtype, counts in CASES:
            for count in counts:
                pair = {
                    how: measure(count, str(folder / stored), str(folder / "cache"), dtype,
                                 how == "mapped")
                    for how in ("copied", "mapped")
                }  # fmt: skip
                ratio = round(pair["mapped"]["pss-mb"] / pair["copied"]["pss-mb"], 3)
                row = {"stored": stored, "dtype": dtype, "processes": count, **pair}
                rows.append({**row, "pss-ratio": ratio})
                print(rows[-1], flush=True)
    about = {"model": asked.model.stem, "parameters": parameters, "batch": B, "tokens": T,
             "lora": "rank 8, all-linear", "meaning": MEANING}  # fmt: skip
    print(write_result("base-memory", about, rows))


if __name__ == "__main__":
    main()
