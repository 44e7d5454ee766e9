"""What a device holds of P coordinates once a download has come, and what it must hold before.

Shapes: P trainable parameters.
"""

import hashlib

import numpy as np

from fedllm_app.core.plan import ClientPlan
from fedllm_app.core.region import Where, put, take
from fedllm_app.core.support import Positions, Sent


def device_copy(
    plan: ClientPlan, where: Where, values: np.ndarray, initial_P: np.ndarray
) -> np.ndarray:
    """Return what a device starts from.

    Parameters
    ----------
    where : the set of coordinates that came.
    values : float32, one for each.
    initial_P : values the model was built with.

    Returns
    -------
    float32 of shape (P,); of shape (K,), what came, where the device holds no more than that.
    """
    if plan.down_as == "change":
        values = values + take(initial_P, where)
    if where is None or plan.rank:
        return values
    start = "initial" in (plan.fill, "initial" if plan.down_as == "change" else "")
    copy_P = initial_P.copy() if start else np.zeros_like(initial_P)
    put(copy_P, where, values)
    return copy_P


def base_of(plan: ClientPlan, fingerprint: str, initial_P: np.ndarray, down: Where) -> str:
    """Return the name of everything that a device must hold alike before its first download.

    That is the frozen base, and where a plan keeps what it never sends (a frozen A drawn from the
    seed), these values as well; where the change from them travels, all of them. Where positions
    travel with values, what is kept differs from round to round, and a device learns it only from
    the payload: then it is the base alone.

    Parameters
    ----------
    fingerprint : of the frozen base, 32 hexadecimal digits.
    initial_P : values the model was built with.
    down : the set that is sent.
    """
    kept_P = initial_P
    if plan.down_as == "values":
        if plan.fill != "initial" or down is None or isinstance(plan.down, Positions | Sent):
            return fingerprint
        kept_P = initial_P.copy()
        put(kept_P, down, np.zeros(down.size, np.float32))
    digest = hashlib.blake2b(bytes.fromhex(fingerprint), digest_size=16)
    digest.update(kept_P.data)
    return digest.hexdigest()
