"""Local steps and batches by tier: the classes of devices in order of speed, the slowest first.

The groups of a method's plan are divided by what their clients' tiers train. How much a reply
counts is as `round.weights` says: "tokens" counts what each has seen.
"""

from dataclasses import replace

from fedllm_app.core.plan import RoundPlan, Work
from fedllm_app.devices.fleet import DeviceSettings
from fedllm_app.server.methods.shares import Tiers


def by_tier(plan: RoundPlan, devices: DeviceSettings, tiers: Tiers) -> RoundPlan:
    """Return a plan whose groups are divided by the steps and the batch of their clients' tiers.

    Parameters
    ----------
    tiers : the tier of a client, of so many.
    """
    if not devices.tiered:
        return plan
    groups, group_of = dict(plan.groups), {}
    for client, group in plan.group_of.items():
        own = work_of(client, devices, tiers)
        name = f"{group}/{own.steps or 'all'}x{own.batch or 'all'}"
        whole = plan.groups[group]
        work = replace(
            whole.work, steps=own.steps or whole.work.steps, batch=own.batch or whole.work.batch
        )
        groups[name], group_of[client] = replace(whole, work=work), name
    return replace(plan, groups=groups, group_of=group_of)


def work_of(client: str, devices: DeviceSettings, tiers: Tiers) -> Work:
    """Return the steps and the batch of a client's tier; 0 where tiers do not say."""
    steps, batches = (
        of[tiers(client, len(of))] if of else 0 for of in (devices.steps, devices.batches)
    )
    return Work(steps=steps, batch=batches)
