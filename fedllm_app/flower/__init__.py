"""The one room that knows Flower: messages, transport, strategy, and what a node does."""
