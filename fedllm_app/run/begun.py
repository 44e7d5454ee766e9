"""What a run was begun on, as digests: a run that goes on must find the same.

The configuration names a model and data by path; their content may have changed since. Adapters
that were trained on one base are worth nothing on another, and a mean over other data is another
run's.
"""

from collections.abc import Mapping

from fedllm_app.core.errors import CheckpointError

# What is compared, and where it comes from. What an earlier version did not write is not compared.
WORDS = {
    "base": "the frozen weights (model.source)",
    "tokenizer": "the tokenizer (model.tokenizer, data.train)",
    "layout": "the trained tensors (model.train, lora.*)",
    "initial": "the values that training begins with (model.source, run.seed)",
    "train": "the training rows (data.train)",
    "evaluation": "the rows that are evaluated (data.test, or those held out)",
    "labels": "the labels (data.labels)",
    "partition": "who owns which row (partition.*)",
}


def check_same(
    name: str, round: int, before: Mapping[str, str], now: Mapping[str, str], source: str
) -> None:
    """Refuse to go on where the model or the data are not those that the run began with.

    Parameters
    ----------
    name, round : of the run and of its checkpoint.
    before, now : digests by the names of `WORDS`.
    source : where model and data come from, for the message.

    Raises
    ------
    CheckpointError
        If a digest differs; the message names each.
    """
    changed = [
        WORDS[part] for part in WORDS if part in before and before[part] != now.get(part, "")
    ]
    if changed:
        raise CheckpointError(
            f"run {name!r} cannot go on after round {round}: "
            f"{', and '.join(changed)} changed since it began, under the same settings ({source}). "
            "Put back what was there, or choose another run.name"
        )
