"""A client's examples: where they come from, how they are cut up, and what a task makes of them."""
