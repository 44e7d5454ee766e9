"""Which evaluator a run has, from its configuration: on the server, on the devices, or nobody.

Shapes: P trainable parameters.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from fedllm_app.core.errors import DataError, first_line
from fedllm_app.data.settings import NODE
from fedllm_app.data.users import SEEN, UNSEEN, is_unseen
from fedllm_app.parts import Parts
from fedllm_app.run.record import Recorder
from fedllm_app.server.limits import Limits
from fedllm_app.server.measuring import Evaluator, Here, OnDevices
from fedllm_app.server.transport import Transport
from fedllm_app.talk.answers import answers
from fedllm_app.talk.sample import sample
from fedllm_app.talk.scores import scores
from fedllm_app.tasks.base import Tally
from fedllm_app.tasks.by_client import Tallies, client_rows, spread
from fedllm_app.tasks.sums import checked_sums

log = logging.getLogger("fedllm")


def evaluator_of(
    parts: Parts, recorder: Recorder, limits: Limits, transport: Transport
) -> Evaluator:
    """Return what measures the model.

    Devices are asked where each has its examples to itself and holds some out.
    """
    data, most = parts.config.data, parts.config.round.evaluate_clients
    evaluate = partial(measured, parts) if len(parts.data.evaluation) else None
    if not most:
        return Here(evaluate)
    told = partial(_recorded, parts, recorder)
    if data.train != NODE or not (data.client_holdout or data.unseen_clients):
        return Here(evaluate, lambda values_P: told(by_client(parts, values_P, most), {}))
    return OnDevices(
        evaluate, transport, recorder.ledger, limits, most,
        lambda client: UNSEEN if is_unseen(client, data) else SEEN,
        partial(_checked, parts), told,
    )  # fmt: skip


def measured(parts: Parts, values_P: np.ndarray) -> dict[str, float]:
    """Return the metrics of flat values, headline first; of answers too, where a run asks for it.

    The answers are those of the sample that a run answers at its end.
    """
    found, task = parts.evaluate(values_P), parts.config.task
    if not (task.answers_often and parts.kind.chat):
        return found
    asked = sample(parts.data.evaluation, parts.tokenizer, task.generate)
    prompts = [one.prompt for one in asked]
    try:
        said = answers(parts.model.backbone, parts.tokenizer, prompts, task.generate_tokens)
        return found | scores(said, [one.reference for one in asked])
    except Exception as error:  # the model is measured without them, too
        log.warning("held-out conversations are not answered: %s", first_line(error))
        return found


def by_client(parts: Parts, values_P: np.ndarray, most: int) -> Tallies:
    """Return the sums of flat values on each client that is measured, by kind of clients.

    Parameters
    ----------
    most : clients of each kind.

    Raises
    ------
    DataError
        If nobody has an example to be measured on.
    """
    parts.model.load(values_P)
    found = {
        kind: [(c, parts.tally(of.table, rows)) for c, rows in of.chosen(most)]
        for kind, of in parts.data.measured.items()
    }
    if not any(found.values()):
        raise DataError(
            f"round.evaluate-clients is {most} and no client has an example to be measured on; "
            "set data.client-holdout or data.unseen-clients, or a data.test whose examples "
            f"have the column {parts.config.data.user_column!r}"
        )
    return found


def _recorded(
    parts: Parts, recorder: Recorder, tallies: Tallies, dropped: Mapping[str, int]
) -> None:
    """Have the metrics of single clients recorded, and how they are spread."""
    rows, spreads = client_rows(parts.task, tallies), spread(parts.task, tallies)
    recorder.by_client.measured(rows, spreads, dropped)


def _checked(parts: Parts, sums: Mapping[str, Any], held: int) -> Tally:
    """Return the sums of a device that holds out so many examples; WireError if they cannot be."""
    of_one = parts.config.task.max_tokens if parts.task.unit == "tokens" else 1
    return checked_sums(parts.kind.sums, sums, held * of_one, len(parts.labels))
