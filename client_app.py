"""The ClientApp: unpack a message, let the client wing do the work, pack its answer.

Ray's workers live for a whole run, so the model and the data are built once per process and only
the trainable values change from client to client.
"""

from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedllm_app.client.answer import answer
from fedllm_app.client.train import Device
from fedllm_app.config import RunConfig
from fedllm_app.message import Holdings, pack_holdings, pack_replies, reply_to, unpack_request
from fedllm_app.parts import Parts, Place

app = ClientApp()


@lru_cache(maxsize=1)
def _parts(config: RunConfig, place: Place) -> Parts:
    return Parts(config, place)


@lru_cache(maxsize=1)
def _device(config: RunConfig, place: Place, run_folder: Path) -> Device:
    return _parts(config, place).device(run_folder)


def _of(context: Context) -> tuple[RunConfig, Place]:
    config = RunConfig.parse(context.run_config)
    return config, Place.of(config, context.node_config)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which clients this node plays."""
    config, place = _of(context)
    simulated = 0 if place.client else int(context.node_config.get("num-partitions", 1))
    holdings = Holdings(counts=_parts(config, place).counts(), federation=simulated)
    return reply_to(message, pack_holdings(holdings))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do the jobs of a message."""
    config, place = _of(context)
    run_folder = place.home / "runs" / (config.run.name or str(context.run_id))
    device = _device(config, place, run_folder)
    return reply_to(message, pack_replies(answer(device, unpack_request(message.content))))
