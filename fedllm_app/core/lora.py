"""What adapters are called and how they lie: A is (R, inputs), B is (outputs, R) (Hu et al. 2021).

Shapes: R rank of the adapters.
"""

from fedllm_app.core.layout import ParamLayout

ADAPTERS = ("*.lora_A.*", "*.lora_B.*", "*lora_embedding_A*", "*lora_embedding_B*")


def lora_rank_axis(name: str) -> int | None:
    """Return which axis of a LoRA tensor counts its R ranks, or None for any other tensor.

    A is (R, inputs), B is (outputs, R), for embeddings too.
    """
    if ".lora_A." in name or ".lora_embedding_A" in name:
        return 0
    return 1 if ".lora_B." in name or ".lora_embedding_B" in name else None


def with_rank(layout: ParamLayout, rank: int) -> ParamLayout:
    """Return the layout with adapters of another rank; the rest stays."""
    shapes = []
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        axis = lora_rank_axis(name)
        shapes.append(shape if axis is None else (*shape[:axis], rank, *shape[axis + 1 :]))
    return ParamLayout(layout.names, tuple(shapes))


def lora_rank(layout: ParamLayout) -> int:
    """Return the rank of the adapters, 0 where there are none."""
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        axis = lora_rank_axis(name)
        if axis is not None:
            return shape[axis]
    return 0
