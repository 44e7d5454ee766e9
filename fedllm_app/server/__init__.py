"""The server wing: plans, cohorts, aggregation, the optimizer's step, checkpoints, the loop."""
