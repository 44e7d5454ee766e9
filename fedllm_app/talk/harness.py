"""Hand a merged model to lm-evaluation-harness, which is an extra: `pip install 'fedllm[eval]'`."""

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from fedllm_app.core.errors import ConfigError
from fedllm_app.models.export import merge
from fedllm_app.models.result import computes_on, result_folder

INSTALL = "pip install 'fedllm[eval]', or pip install 'lm-eval[hf]>=0.4.9'"


def evaluate(
    run: Path, tasks: str, out: Path, base: str, cache: Path, include: Path | None, limit: int,
    chat: bool, device: str = "cpu",
) -> None:  # fmt: skip
    """Run tasks of lm-evaluation-harness on the model of a run; it prints its own table.

    Parameters
    ----------
    run : folder of the run.
    tasks : names, with commas between them.
    out : folder for its results, results_DATE.json.
    base, cache : as in `merge`.
    include : folder with tasks of your own (.yaml), None for those of the harness.
    limit : examples of each task, 0 for all.
    chat : apply the chat template.
    device : "auto", "cpu" or "cuda".

    Raises
    ------
    ConfigError
        If the harness is not installed, the run has no result, or the harness fails.
    """
    if find_spec("lm_eval") is None:
        raise ConfigError(f"fedllm eval needs lm-evaluation-harness, which is not here: {INSTALL}")
    processor, dtype = computes_on(device)
    folder, name = result_folder(run), str(dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory(prefix="fedllm-merged-") as place:
        whole = folder if folder.name == "model" else merge(folder, Path(place) / "m", base, cache)
        words = [
            sys.executable, "-m", "lm_eval", "--model", "hf",
            "--model_args", f"pretrained={whole},dtype={name}", "--tasks", tasks,
            "--device", processor,
            # Given a folder, it would make one below it that is named by the temporary model.
            "--output_path", str(out / "results.json"), "--batch_size", "8",
        ]  # fmt: skip
        words += ["--include_path", str(include.resolve())] if include else []
        words += ["--limit", str(limit)] if limit else []
        words += ["--apply_chat_template"] if chat else []
        if code := subprocess.run(words, check=False).returncode:
            raise ConfigError(f"lm_eval ended with {code}; what it says stands above")
