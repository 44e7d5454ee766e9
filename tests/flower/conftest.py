"""What Flower asks for before it makes a message."""

import pytest
from flwr.supercore.task_identity import TaskIdentity


@pytest.fixture
def identity(monkeypatch):
    """Give this process the names without which Flower makes no message."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
