"""What is wrong between a run and its federation file, as far as both tell before Flower starts."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from fedllm_app.config import RunConfig
from fedllm_app.data.settings import NODE

SHARE = "client-resources-num-gpus"


def federation_problems(config: RunConfig, file: Path) -> Iterator[str]:
    """Yield that a run needs a GPU for its clients and the federation gives them none.

    Parameters
    ----------
    file : flat settings of the simulation; one that cannot be read is left to Flower.
    """
    asked = config.model.quantize and f"model.quantize is {config.model.quantize!r}"
    if config.model.device == "cuda":
        asked = asked or "model.device is 'cuda'"
    if not asked or config.data.train == NODE:
        return
    try:
        given = tomllib.loads(file.read_text("utf-8")).get(SHARE, 0)
    except (OSError, ValueError):
        return
    if not given:
        yield (
            f"{asked}, and {str(file)!r} gives clients no GPU ({SHARE} is {given!r}); expected "
            f"--federation FILE with a copy of it that has {SHARE} = 0.5 and "
            "init-args-num-gpus = 1, which lets two clients share one GPU"
        )
