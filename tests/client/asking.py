"""Requests as the server's loop makes them, and what comes back decoded."""

from fedllm_app.client.answer import answer
from fedllm_app.core.job import Request
from fedllm_app.core.plan import ClientPlan
from fedllm_app.wire.codec import decode, encode
from fedllm_app.wire.slices import origin_of

DENSE = ClientPlan()


def request_for(model, values, *jobs, plan=DENSE, sent=None, **changes):
    """Return a request as the server's loop makes it."""
    origin = origin_of(model.layout, model.fingerprint)
    chosen = values if sent is None else values[sent]
    payload = encode(chosen, sent, origin, value_type="fp32", block=256)
    words = {"layout": model.layout.hash, "fingerprint": model.fingerprint} | changes
    return Request("all", plan.to_json(), {"params": payload}, jobs, **words, round=jobs[0].id)


def deltas(device, request, derived=None):
    """Return the decoded update of every job."""
    origin, found = origin_of(device.model.layout, device.model.fingerprint), []
    for reply in answer(device, request):
        assert reply.error == ""
        found.append(decode(reply.vectors["params"], origin, derived=derived))
    return found
