"""Message, version 4: requests and replies as Flower's records, one uint8 Array each way.

A train message holds the jobs of one group and their vectors by name; its reply holds the vectors
of each job and its metrics with their denominators. Vectors are packed end to end in the Array.
Everything beside the Array is one JSON string, so that what is not a message of ours is refused in
one place.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.app import Message as Message  # for those who carry it
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Job, Reason, Reply, Request, TrainMetrics

VERSION = 4
MOST_ERROR = 500  # characters of a client's error that reach the log, on one line


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Answer:
    """One job's answer in a reply: name and length of its vectors in the Array, or an error."""

    job: int
    client: str
    vectors: list[tuple[str, int]]
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
    profiles : what is known of the devices of some clients, by id.
    held : further examples that a client holds out, to be measured by, by id.
    """

    counts: dict[str, int]
    federation: int = 0
    profiles: dict[str, dict[str, float | str]] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class ReplyHeader:
    """The words of a reply."""

    version: int
    answers: list[Answer]


REPLY_HEADER = TypeAdapter(ReplyHeader)
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
        "round": request.round,
        "held": request.held,
        "vectors": _lengths(request.vectors),
    }
    return records_of(words, _packed([request.vectors]))


def unpack_request(content: RecordDict) -> Request:
    """Return the request in a train message.

    Raises
    ------
    WireError
        If it is not one of version 4.
    """
    packed = _payload(content)
    try:
        words = json.loads(words_of(content))
        if words["version"] != VERSION:
            raise WireError(f"message version is {words['version']!r}; expected {VERSION}")
        return Request(
            group=words["group"],
            plan=words["plan"],
            vectors=_unpacked(packed, [words["vectors"]])[0],
            jobs=tuple(Job(**job) for job in words["jobs"]),
            layout=words["layout"],
            fingerprint=words["fingerprint"],
            round=words["round"],
            held=words["held"],
        )
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise WireError(f"not a train message: {error!r}") from None


def pack_replies(replies: Sequence[Reply]) -> RecordDict:
    """Return the replies to one message as records."""
    words = [
        {
            "job": reply.job,
            "client": reply.client,
            "vectors": _lengths(reply.vectors),
            "error": reply.error,
            "reason": reply.reason,
            "metrics": asdict(reply.metrics),
        }
        for reply in replies
    ]
    packed = _packed([reply.vectors for reply in replies])
    return records_of({"version": VERSION, "answers": words}, packed)


def unpack_replies(content: RecordDict) -> list[Reply]:
    """Return the replies in a message from a client, whose bytes are hostile.

    Raises
    ------
    WireError
        If the records, a number or a length is not as `pack_replies` writes it.
    """
    packed = _payload(content)
    try:
        words = REPLY_HEADER.validate_json(words_of(content))
    except ValidationError as error:
        raise WireError(f"not a reply of version {VERSION}: {error}") from None
    if words.version != VERSION:
        raise WireError(f"reply version is {words.version}; expected {VERSION}")
    answers = words.answers
    vectors = _unpacked(packed, [answer.vectors for answer in answers])
    return [
        Reply(
            job=answer.job,
            client=answer.client,
            vectors=found,
            metrics=answer.metrics,
            error=in_a_line(answer.error),
            reason=answer.reason,
        )
        for answer, found in zip(answers, vectors, strict=True)
    ]


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


def in_a_line(text: str) -> str:
    """Return what a device says as the log can show it: cut, and on one line."""
    return " ".join(text[:MOST_ERROR].split())


def last_line(text: str | None) -> str:
    """Return the last line of a traceback that says something."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1][:MOST_ERROR] if lines else "no reason given"


def pack_holdings(holdings: Holdings) -> RecordDict:
    """Return a node's answer to a query as records."""
    return records_of(asdict(holdings), None)


def unpack_holdings(content: RecordDict) -> Holdings:
    """Return a node's answer to a query.

    Raises
    ------
    WireError
        If it is not one.
    """
    try:
        return HOLDINGS.validate_json(words_of(content))
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


def _lengths(vectors: Mapping[str, np.ndarray]) -> list[tuple[str, int]]:
    return [(name, int(payload.size)) for name, payload in vectors.items()]


def _packed(several: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Return all vectors end to end; the vector itself where there is one, without a copy."""
    parts = [payload for vectors in several for payload in vectors.values()]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.empty(0, np.uint8), *parts])


def _unpacked(
    packed: np.ndarray, several: Sequence[Sequence[tuple[str, int]]]
) -> list[dict[str, np.ndarray]]:
    """Return the vectors that lie end to end, as views.

    Raises
    ------
    WireError
        If a length is negative, a name comes twice, or they do not sum to what came.
    """
    total = sum(max(length, 0) for lengths in several for _, length in lengths)
    negative = any(length < 0 for lengths in several for _, length in lengths)
    if total != packed.size or negative:
        raise WireError(f"vectors have {packed.size} bytes; their lengths sum to {total}")
    found, start = list[dict[str, np.ndarray]](), 0
    for lengths in several:
        vectors: dict[str, np.ndarray] = {}
        for name, length in lengths:
            vectors[name] = packed[start : start + length]
            start += length
        if len(vectors) != len(lengths):
            raise WireError("a vector is named twice")
        found.append(vectors)
    return found


def records_of(words: Any, payload: np.ndarray | None) -> RecordDict:
    """Return words, and bytes where there are any, as records."""
    records = RecordDict({"words": ConfigRecord({"json": json.dumps(words)})})
    if payload is not None:
        data = Array("uint8", (int(payload.size),), "raw", payload.tobytes())
        records["payload"] = ArrayRecord({"payload": data})
    return records


def words_of(content: RecordDict) -> str:
    """Return the words of a message, JSON if it is one of ours.

    Raises
    ------
    WireError
        If there are none.
    """
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
