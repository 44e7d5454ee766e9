"""The settings of what travels: namespace `wire`."""

from typing import Literal

from pydantic import Field, field_validator

from fedllm_app.core.settings import Settings
from fedllm_app.wire.quantize import ValueType


class WireSettings(Settings):
    """How values travel, namespace `wire`."""

    up_values: ValueType = Field(
        "fp32",
        description="Type of the values that clients send. int4 and q4 have 4 bits, q3 has 3 bits, "
        "q2 has 2 bits; u2 to u16 have 2^bits even levels between the bounds of each tensor.",
    )
    down_values: Literal[ValueType, "grid"] = Field(
        "fp32",
        description="Type of the values that the server sends. int4 and q4 have 4 bits, q3 has "
        "3 bits, q2 has 2 bits; u2 to u16 have 2^bits even levels between the bounds of each "
        "tensor. grid has wire.grid-bits for each value on average.",
    )
    grid_bits: float = Field(
        1.5,
        ge=0.1,
        le=16,
        description="Most bits for each value of type grid, on average. Small values become zero "
        "and cost a fraction of a bit.",
    )
    block: int = Field(
        256,
        ge=16,
        le=65536,
        description="Number of values that share a scale in int8 and int4. It must be a power "
        "of two.",
    )

    @field_validator("block")
    @classmethod
    def _is_power_of_two(cls, block: int) -> int:
        if block & (block - 1):
            raise ValueError(f"{block} is not a power of two; expected 16, 32, ... or 65536")
        return block
