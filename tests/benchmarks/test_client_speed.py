"""The two loops whose speed is compared do the same work: they end with the same model."""

import numpy as np
import torch

from benchmarks.studies.client_speed import Bare, Ours, batches_of
from fedllm_app.client.settings import ClientSettings


def test_both_loops_end_with_the_same_model(tmp_path):
    settings = ClientSettings(
        optimizer="adamw", lr=1e-3, beta1=0.9, beta2=0.95, weight_decay=0.1, decay_all=False,
        clip_norm=1.0, steps=2, warmup_steps=4,
    )  # fmt: skip
    batches = [{k: t[:4, :16] for k, t in batch.items()} for batch in batches_of(2)]
    ours, bare = Ours("tiny", batches, settings, tmp_path), Bare("tiny", batches, settings)
    ours()
    bare()
    assert abs(ours.loss - bare.loss) < 1e-5
    theirs = torch.cat([p.detach().flatten() for p in bare.model.parameters()]).numpy()
    moved = np.abs(ours.device.model.values() - ours.start)
    assert moved.max() > 4e-4  # the rates of two warm-up steps, by Adam's unit steps
    far = np.abs(ours.device.model.values() - theirs)
    # Where a gradient is nearly nothing, Adam's first steps turn rounding into whole steps.
    assert np.mean(far > 1e-6) < 1e-3
