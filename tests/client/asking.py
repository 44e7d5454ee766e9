"""Requests as the server's loop makes them, and what comes back decoded."""

from fedllm_app.client.answer import answer
from fedllm_app.core.job import Request
from fedllm_app.core.plan import ClientPlan
from fedllm_app.wire.codec import decode, encode

DENSE = ClientPlan()


def request_for(model, values, *jobs, plan=DENSE, sent=None, **changes):
    """Return a request as the server's loop makes it."""
    size = model.layout.size
    payload = encode(
        values if sent is None else values[sent], sent, size, value_type="fp32", block=256,
        layout_hash=model.layout.hash, fingerprint=model.fingerprint,
    )  # fmt: skip
    words = {"layout": model.layout.hash, "fingerprint": model.fingerprint} | changes
    return Request("all", plan.words(), payload, jobs, **words)


def deltas(device, request, derived=None):
    """Return the decoded update of every job."""
    model, found = device.model, []
    for reply in answer(device, request):
        assert reply.error == ""
        found.append(
            decode(
                reply.update, P=model.layout.size, layout_hash=model.layout.hash,
                fingerprint=model.fingerprint, derived=derived,
            )
        )  # fmt: skip
    return found
