"""Message, version 1: requests and replies as Flower's records, one uint8 Array each way.

A train message holds the jobs of one group and their one payload; its reply holds one update per
job, packed end to end, and its metrics with their denominators. Everything beside the Array is
one JSON string, so that what is not a message of ours is refused in one place.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.app import Message as Message  # for those who carry it
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Job, Reason, Reply, Request, TrainMetrics

VERSION = 1
MOST_ERROR = 500  # characters of a client's error that reach the log, on one line


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Answer:
    """One job's answer in a reply: the length of its update in the Array, or an error."""

    job: int
    client: str
    length: int
    error: str
    reason: Reason
    metrics: TrainMetrics


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Holdings:
    """What a node answers to a query: which clients it plays, with how many examples each.

    Attributes
    ----------
    counts : examples of each client, by id.
    federation : nodes of a simulation, each of which plays every client; 0 on a device.
    """

    counts: dict[str, int]
    federation: int = 0


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class ReplyWords:
    """The words of a reply."""

    version: int
    answers: list[Answer]


REPLY_WORDS = TypeAdapter(ReplyWords)
HOLDINGS = TypeAdapter(Holdings)


def pack_request(request: Request) -> RecordDict:
    """Return a request as records."""
    words = {
        "version": VERSION,
        "group": request.group,
        "plan": request.plan,
        "jobs": [asdict(job) for job in request.jobs],
        "layout": request.layout,
        "fingerprint": request.fingerprint,
    }
    return _records(words, request.payload)


def unpack_request(content: RecordDict) -> Request:
    """Return the request in a train message.

    Raises
    ------
    WireError
        If it is not one of version 1.
    """
    payload = _payload(content)
    try:
        words = json.loads(_words(content))
        if words["version"] != VERSION:
            raise WireError(f"message version is {words['version']!r}; expected {VERSION}")
        return Request(
            group=words["group"],
            plan=words["plan"],
            payload=payload,
            jobs=tuple(Job(**job) for job in words["jobs"]),
            layout=words["layout"],
            fingerprint=words["fingerprint"],
        )
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise WireError(f"not a train message: {error!r}") from None


def pack_replies(replies: Sequence[Reply]) -> RecordDict:
    """Return the replies to one message as records."""
    updates = [np.empty(0, np.uint8) if r.update is None else r.update for r in replies]
    words = [
        {
            "job": reply.job,
            "client": reply.client,
            "length": int(update.size) if reply.update is not None else -1,
            "error": reply.error,
            "reason": reply.reason,
            "metrics": asdict(reply.metrics),
        }
        for reply, update in zip(replies, updates, strict=True)
    ]
    packed = updates[0] if len(updates) == 1 else np.concatenate(updates)
    return _records({"version": VERSION, "answers": words}, packed)


def unpack_replies(content: RecordDict) -> list[Reply]:
    """Return the replies in a message from a client, whose bytes are hostile.

    Raises
    ------
    WireError
        If the records, a number or a length is not as `pack_replies` writes it.
    """
    packed = _payload(content)
    try:
        words = REPLY_WORDS.validate_json(_words(content))
    except ValidationError as error:
        raise WireError(f"not a reply of version {VERSION}: {error}") from None
    if words.version != VERSION:
        raise WireError(f"reply version is {words.version}; expected {VERSION}")
    answers = words.answers
    lengths = [max(answer.length, 0) for answer in answers]
    if sum(lengths) != packed.size:
        raise WireError(f"updates have {packed.size} bytes; their lengths sum to {sum(lengths)}")
    replies, start = [], 0
    for answer, length in zip(answers, lengths, strict=True):
        replies.append(
            Reply(
                job=answer.job,
                client=answer.client,
                update=packed[start : start + length] if answer.length >= 0 else None,
                metrics=answer.metrics,
                error=" ".join(answer.error[:MOST_ERROR].split()),
                reason=answer.reason,
            )
        )
        start += length
    return replies


def read_replies(message: Message, jobs: Sequence[Job]) -> list[Reply]:
    """Return one reply for each of `jobs`, whatever the message says: it is hostile."""
    asked = {(job.id, job.client): Reply(job.id, job.client, error="no answer") for job in jobs}
    if message.has_error():
        why = last_line(message.error.reason)
        return [replace(reply, error=why) for reply in asked.values()]
    try:
        answers = unpack_replies(message.content)
        for answer in answers:
            if (answer.job, answer.client) not in asked:
                raise WireError(f"answer for client {answer.client!r}, which was not asked here")
    except WireError as error:
        return [replace(r, error=str(error), reason=error.reason) for r in asked.values()]
    return list((asked | {(r.job, r.client): r for r in answers}).values())


def last_line(text: str | None) -> str:
    """Return the last line of a traceback that says something."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1][:MOST_ERROR] if lines else "no reason given"


def pack_holdings(holdings: Holdings) -> RecordDict:
    """Return a node's answer to a query as records."""
    return _records(asdict(holdings), None)


def unpack_holdings(content: RecordDict) -> Holdings:
    """Return a node's answer to a query.

    Raises
    ------
    WireError
        If it is not one.
    """
    try:
        return HOLDINGS.validate_json(_words(content))
    except ValidationError as error:
        raise WireError(f"not an answer to a query: {error}") from None


def train_message(request: Request, node: int, ttl_s: float) -> Message:
    """Return the message that asks a node for a request's jobs."""
    return Message(
        content=pack_request(request), dst_node_id=node, message_type="train",
        group_id=str(request.jobs[0].id), ttl=ttl_s,
    )  # fmt: skip


def query_message(node: int, ttl_s: float) -> Message:
    """Return the message that asks a node which clients it plays."""
    return Message(RecordDict(), dst_node_id=node, message_type="query", ttl=ttl_s)


def reply_to(message: Message, content: RecordDict) -> Message:
    """Return the answer to a message."""
    return Message(content, reply_to=message)


def _records(words: Any, payload: np.ndarray | None) -> RecordDict:
    records = RecordDict({"words": ConfigRecord({"json": json.dumps(words)})})
    if payload is not None:
        data = Array("uint8", (int(payload.size),), "raw", payload.tobytes())
        records["payload"] = ArrayRecord({"payload": data})
    return records


def _words(content: RecordDict) -> str:
    try:
        return str(content.config_records["words"]["json"])
    except KeyError:
        raise WireError("no words in the message") from None


def _payload(content: RecordDict) -> np.ndarray:
    try:
        array = content.array_records["payload"]["payload"]
    except KeyError:
        raise WireError("no payload in the message") from None
    return np.frombuffer(array.data, np.uint8)
