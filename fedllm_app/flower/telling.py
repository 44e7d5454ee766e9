"""A failure of ours in Flower's log: its message, not the frames that it came through."""

import logging

from fedllm_app.core.errors import FedllmError

OURS = FedllmError.__module__  # stands in a traceback that is text already


class _Sentence(logging.Filter):
    """Leaves of a record about an error of ours the error alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = str(record.msg)
        if said.startswith("Traceback") and f"{OURS}." in said:
            return False  # Flower has logged the error itself before
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        while error is not None and not isinstance(error, FedllmError):
            error = error.__cause__ or error.__context__
        if error is not None:
            record.msg, record.args = f"{type(error).__name__}: {error}", ()
            record.exc_info = record.exc_text = None
        return True


def in_one_sentence(verbose: bool) -> None:
    """Let Flower log errors of ours as their message; `verbose` leaves its tracebacks."""
    logger = logging.getLogger("flwr")
    for old in [f for f in logger.filters if isinstance(f, _Sentence)]:
        logger.removeFilter(old)
    if not verbose:
        logger.addFilter(_Sentence())
