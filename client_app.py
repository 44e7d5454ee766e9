"""The ClientApp: unpack a message, let the client wing do the work, pack its answer.

Loaded in a moment: torch and its like are imported by the first message (flower/waking.py).
"""

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedllm_app.flower.measuring import pack_measurements
from fedllm_app.flower.message import pack_holdings, pack_replies, reply_to, unpack_request
from fedllm_app.flower.telling import in_one_sentence
from fedllm_app.flower.waking import import_node

app = ClientApp()


@app.query("wake")
def wake(message: Message, context: Context) -> Message:
    """Answer at once, and import meanwhile what the next message takes."""
    import_node()
    return reply_to(message, RecordDict())


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which clients this node plays."""
    from fedllm_app.flower.node import holdings

    in_one_sentence(bool(context.run_config.get("run.verbose")))
    return reply_to(message, pack_holdings(holdings(context.run_config, context.node_config)))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do the jobs of a message."""
    from fedllm_app.flower.node import train

    in_one_sentence(bool(context.run_config.get("run.verbose")))
    request = unpack_request(message.content)
    replies = train(request, context.run_config, context.node_config, context.run_id)
    return reply_to(message, pack_replies(replies))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the model of a message on what this device holds out; answer with sums alone."""
    from fedllm_app.flower.node import evaluate

    in_one_sentence(bool(context.run_config.get("run.verbose")))
    request = unpack_request(message.content)
    found = evaluate(request, context.run_config, context.node_config, context.run_id)
    return reply_to(message, pack_measurements(found))
