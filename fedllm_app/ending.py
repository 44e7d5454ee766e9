"""What a run leaves behind: the model that was evaluated, answers of it, and the report."""

import logging
from pathlib import Path

from fedllm_app.core.errors import RunFailedError, first_line
from fedllm_app.models.export import save_adapter
from fedllm_app.parts import Parts
from fedllm_app.report.answers import write_answers
from fedllm_app.report.classes import write_classes
from fedllm_app.report.page import write_report
from fedllm_app.server.loop import Loop
from fedllm_app.talk.sample import answered, sample

log = logging.getLogger("fedllm")


def finish_run(parts: Parts, folder: Path, loop: Loop) -> None:
    """Write the model that was evaluated, and the report.

    Raises
    ------
    RunFailedError
        At the end, if the run ended without a result. A model whose loss is no number is not saved.
    """
    limits, state = loop.limits, loop.state
    if not limits.not_finite(state):
        parts.model.load(loop.served().values)
        save_adapter(
            parts.model,
            folder,
            task=parts.config.task.name,
            source=parts.named,
            labels=parts.labels,
            tokenizer=parts.tokenizer,
            image=parts.image,
            round=state.round,
            metrics=dict(state.evaluation),
        )
        write_classes(folder, state.round, parts.classes)
        try:
            answer_sample(parts, folder, loop)
        except Exception as error:  # the run is whole without its answers, too
            log.warning("no answers.json: %s", first_line(error))
    try:
        write_report(folder)
    except Exception as error:  # the run is whole without its page, whatever is wrong with that
        log.warning("no report.html: %s", error)
    if why := limits.failed(state):
        raise RunFailedError(why)


def answer_sample(parts: Parts, folder: Path, loop: Loop) -> None:
    """Answer held-out conversations before and after training, where task.generate asks for it."""
    task = parts.config.task
    if not (task.generate and parts.kind.chat and len(parts.data.evaluation)):
        return
    asked = sample(parts.data.evaluation, parts.tokenizer, task.generate)
    values = {"before": parts.initial, "after": loop.served().values}
    log.info("answering %d held-out conversations, before and after training", len(asked))
    parts.model.model.eval()
    found = answered(
        asked, parts.model.backbone, parts.tokenizer, task.generate_tokens,
        lambda when: parts.model.load(values[when]),
    )  # fmt: skip
    for when in values:
        told = ", ".join(f"{name} {value:.4f}" for name, value in found[when].items())
        log.info("answers %s training: %s", when, told)
    write_answers(folder, loop.state.round, found)
