"""Candidates made by hand, whose rounds all cost the same."""

from fedllm_app.config import RunConfig
from fedllm_app.study.costs import Costs
from fedllm_app.study.planner import Candidate

MB = 10**6


def costs(up_mb, rounds, coordinates=0):
    made = Costs.zeros(rounds)
    made.up_bytes[:] = round(up_mb * MB)
    made.up_coordinates[:] = coordinates
    return made


def candidate(up_mb=1.0, fits=None, rounds=9, coordinates=0, **settings):
    """Return a candidate of `settings`, by section__key, whose rounds take `up_mb` each."""
    keys = {k.replace("__", ".").replace("_", "-"): v for k, v in settings.items()}
    config = RunConfig.parse({"run.rounds": rounds} | keys)
    return Candidate(
        keys, config, costs(up_mb, rounds, coordinates), rounds if fits is None else fits
    )
