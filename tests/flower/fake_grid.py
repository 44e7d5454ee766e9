"""Flower's grid as a list of nodes in memory; every message and reply is Flower's own."""

import uuid

import numpy as np
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from fedllm_app.core.job import Job, Reply, Request
from fedllm_app.core.plan import ClientPlan
from fedllm_app.flower.message import (
    Holdings,
    pack_holdings,
    pack_replies,
    reply_to,
    unpack_request,
)
from fedllm_app.flower.transport import FlowerTransport

PAYLOAD = np.arange(8, dtype=np.uint8)


class FakeGrid:
    """Nodes that answer at once, later, or never.

    Attributes
    ----------
    holds : by node, what it answers to a query: holdings, an error text, odd records, or never.
    train : what a node answers to a train message; None is not yet.
    lost : nodes to which nothing can be sent.
    """

    def __init__(self, holds, train=None):
        self.holds, self.train, self.lost = holds, train or (lambda message: None), set()
        self.queries, self.pushed, self.ready = [], {}, {}

    def get_node_ids(self):
        return list(self.holds)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node in self.lost:
                ids.append(None)
                continue
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            ids.append(message.metadata.message_id)
            if message.metadata.message_type == "query":
                self.queries.append(node)
                reply = self.held(message)
            else:
                self.pushed[message.metadata.message_id] = message
                reply = self.train(message)
            if reply is not None:
                self.ready[message.metadata.message_id] = reply
        return ids

    def held(self, question):
        said = self.holds[question.metadata.dst_node_id]
        if isinstance(said, str):
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, said), reply_to=question)
        if said is None:
            return None
        return reply_to(question, pack_holdings(said) if isinstance(said, Holdings) else said)

    def pull_messages(self, message_ids):
        assert None not in message_ids
        return [self.ready.pop(i) for i in message_ids if i in self.ready]

    def answer_later(self, node, content):
        """Let the newest message to a node be answered."""
        message = [m for m in self.pushed.values() if m.metadata.dst_node_id == node][-1]
        reply = content if isinstance(content, Message) else reply_to(message, content)
        self.ready[message.metadata.message_id] = reply


def request(*clients, t=1, group="all"):
    jobs = tuple(Job(t, c) for c in clients)
    return Request(
        group, ClientPlan().to_json(), {"params": PAYLOAD}, jobs, "ab" * 16, "cd" * 16, t
    )


def fine(message):
    asked = unpack_request(message.content)
    return reply_to(
        message, pack_replies([Reply(j.id, j.client, {"params": PAYLOAD}) for j in asked.jobs])
    )


def simulation(counts, nodes=(11, 12), train=fine):
    grid = FakeGrid(dict.fromkeys(nodes, Holdings(counts, len(nodes))), train)
    return FlowerTransport(grid, 1, devices=False), grid


def devices(holds, wait_for=1, train=None):
    grid = FakeGrid(holds, train)
    return FlowerTransport(grid, wait_for, devices=True), grid
