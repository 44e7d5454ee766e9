"""A process that plays a run until it is killed, by whoever started it or at a chosen moment.

A moment is a number: of calls into and out of, or made by, the code that writes a run's folder. A
kill falls between two writes, or between a write and its fsync or rename, as no clock could aim.
"""

import os
import signal
import sys
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from fedllm_app import play as play_module
from fedllm_app.client import kept
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import FedllmError
from fedllm_app.models import export
from fedllm_app.run import checkpoint, ledger, metrics, record

IMPORTS = [
    *("fedllm_app.play", "transformers.models.bert.modeling_bert", "datasets", "pytest"),
    *("torch.utils.tensorboard", "matplotlib.figure", "matplotlib.backends.backend_svg"),
]
WRITERS = {
    str(module.__file__)
    for module in (checkpoint, export, kept, ledger, metrics, record, play_module)
}


def start(
    flat: dict[str, Any],
    moment: int = 0,
    within: str = "",
    log: Path | None = None,
    said: Path | None = None,
) -> BaseProcess:
    """Start a process that plays a run; see `play`."""
    # Each begins as a fork of a process that has imported everything: one second, not ten.
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    process = context.Process(target=play, args=(flat, moment, within, log, said))
    process.start()
    return process


def play(
    flat: dict[str, Any], moment: int, within: str, log: Path | None, said: Path | None
) -> None:
    """Play a run, and die of SIGKILL at a moment; 0 is never.

    Parameters
    ----------
    within : count only the moments in which this function was at work.
    log : gets the name of the function that was at work at each moment, one a line.
    said : gets the error in which the run ends.
    """
    passed: list[str] = []

    def look(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if code.co_filename in WRITERS and within in ("", code.co_name):
            passed.append(code.co_name)
            if len(passed) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    if moment or log:
        sys.setprofile(look)
    try:
        play_module.run_local(RunConfig.parse(flat))
    except FedllmError as error:
        if said is None:
            raise
        said.write_text(str(error))
    sys.setprofile(None)
    if log:
        log.write_text("\n".join(passed))
