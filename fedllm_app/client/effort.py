"""What a job on so many examples computes, as `local_batches` in train.py goes through them."""

from fedllm_app.client.rules import rule_kind
from fedllm_app.client.settings import ClientSettings
from fedllm_app.core.effort import Effort
from fedllm_app.core.plan import Work


def effort_of(settings: ClientSettings, work: Work, examples: int, stream: bool = False) -> Effort:
    """Return what a job computes at most.

    Parameters
    ----------
    work : of its plan.
    examples : of the client, at least 1.
    stream : each example is read once, in batches that are whole; else by epochs, of which the
        last batch may be short.
    """
    batch = work.batch or settings.batch
    steps = work.steps or (0 if work.epochs and not stream else settings.steps)
    an_epoch = -(-examples // batch)
    if stream:
        rows = steps * batch
    elif steps:
        epochs, more = divmod(steps, an_epoch)
        rows = epochs * examples + min(more * batch, examples)
    else:
        epochs = work.epochs or settings.epochs
        steps, rows = epochs * an_epoch, epochs * examples
    if not rule_kind(settings).looks_first:
        return Effort(steps, steps, rows)
    return Effort(steps, steps + an_epoch, rows + examples)
