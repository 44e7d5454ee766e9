"""A client that trains nothing and replies at once."""

import json
import time
from pathlib import Path

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Return what came."""
    with Path(str(context.run_config["times"])).open("a") as file:
        file.write(json.dumps({"trained": time.time()}) + "\n")
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
    return Message(content, reply_to=message)
