"""Losses, tallies and metrics against values found by hand."""

import math

import numpy as np
import pytest
import torch

from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.core.extend import allow
from fedllm_app.tasks import TASKS, TaskSettings, falls, task_of
from fedllm_app.tasks.base import add_tallies
from fedllm_app.tasks.classify import macro_f1

CLASSIFY = TaskSettings().kind.make(9, None)
NEXT = task_of("next-token").make(9, None)


def test_text_is_padded_to_the_longest_row_of_its_batch():
    batch = CLASSIFY.collate([{"input_ids": [5], "label": 1}, {"input_ids": [3, 4, 5], "label": 0}])
    assert batch["input_ids"].tolist() == [[5, 9, 9], [3, 4, 5]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [1, 0]
    assert {t.dtype for t in batch.values()} == {torch.int64}


def test_next_token_labels_are_unshifted_and_pads_are_ignored():
    batch = NEXT.collate([{"input_ids": [5, 6]}, {"input_ids": [3, 4, 5]}])
    assert batch["labels"].tolist() == [[5, 6, -100], [3, 4, 5]]


def test_an_end_of_text_token_used_as_pad_is_still_predicted_where_it_is_text():
    batch = NEXT.collate([{"input_ids": [5, 9]}, {"input_ids": [3, 4, 5]}])
    assert batch["labels"].tolist()[0] == [5, 9, -100]


def test_next_token_counts_predicted_tokens_only():
    batch = NEXT.collate([{"input_ids": [0, 1]}, {"input_ids": [1, 2, 0]}])
    logits = torch.zeros(2, 3, 4)
    logits[0, 0, 1] = logits[1, 0, 2] = 5.0  # right
    logits[1, 1, 1] = 5.0  # wrong: 0 follows
    logits[:, 2] = torch.inf  # nothing follows the last position: never looked at
    tally = NEXT.tally(logits.nan_to_num(posinf=50.0), batch)
    assert (tally["units"], tally["correct"]) == (3, 2)
    # cross-entropy of a logit 5 against three zeros, twice right and once wrong
    right = math.log(math.exp(5) + 3) - 5
    assert tally["loss_sum"] == pytest.approx(2 * right + right + 5, rel=1e-5)
    assert NEXT.loss(logits.nan_to_num(posinf=50.0), batch).item() == pytest.approx(
        tally["loss_sum"] / 3, rel=1e-6
    )


def test_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary():
    batch = NEXT.collate([{"input_ids": [0, 1, 2, 3]}])
    metrics = NEXT.metrics(NEXT.tally(torch.zeros(1, 4, 16), batch))
    assert metrics["perplexity"] == pytest.approx(16, rel=1e-5)
    assert set(metrics) == {"loss", "perplexity", "next-token-accuracy"}
    assert NEXT.metrics({"loss_sum": 1e6, "correct": 0, "units": 1})["perplexity"] < math.inf


def test_loss_agrees_with_transformers_own():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=1)).eval()
    batch = NEXT.collate([{"input_ids": [1, 2]}, {"input_ids": [3, 4, 5, 6]}])
    theirs = model(**batch)
    torch.testing.assert_close(NEXT.loss(theirs.logits, batch), theirs.loss)


def test_classification_counts_by_hand():
    # labels 0 0 1 2, predicted 0 1 1 1
    logits = torch.eye(4)[torch.tensor([0, 1, 1, 1])]
    tally = CLASSIFY.tally(logits, {"labels": torch.tensor([0, 0, 1, 2])})
    assert tally["tp"].tolist() == [1, 1, 0, 0]
    assert tally["fp"].tolist() == [0, 2, 0, 0]
    assert tally["fn"].tolist() == [1, 0, 1, 0]
    metrics = CLASSIFY.metrics(tally)
    assert metrics["accuracy"] == 0.5
    # F1 is 2/3, 1/2 and 0; label 3 neither occurs nor is predicted
    assert metrics["macro-f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_tallies_of_parts_add_up_to_the_tally_of_the_whole():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(30, 5)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 5, 30))
    whole = CLASSIFY.metrics(CLASSIFY.tally(logits, {"labels": labels}))
    parts = add_tallies(
        CLASSIFY.tally(logits[i : i + 7], {"labels": labels[i : i + 7]}) for i in range(0, 30, 7)
    )
    assert CLASSIFY.metrics(parts) == pytest.approx(whole)


def test_macro_f1_of_nothing_is_zero_and_metrics_of_nothing_are_refused():
    zero = np.zeros(3, np.int64)
    assert macro_f1(zero, zero, zero) == 0
    with pytest.raises(DataError, match="no units"):
        CLASSIFY.metrics(add_tallies([]))


def test_bfloat16_logits_give_a_float32_loss():
    loss = CLASSIFY.loss(torch.zeros(2, 3, dtype=torch.bfloat16), {"labels": torch.tensor([0, 1])})
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("name", TASKS)
def test_a_kind_tells_all_that_is_asked_of_it(name):
    import transformers

    kind, task = TASKS[name], TASKS[name].make(0, None)
    assert task.unit in {"examples", "tokens"}
    assert hasattr(transformers, kind.auto_model)
    assert kind.headline == kind.metric_names[0]
    assert kind.falling == {"loss", "perplexity"} & set(kind.metric_names)
    total = {"units": 1, "loss_sum": 1.0, "correct": 1, **dict.fromkeys(("tp", "fp", "fn"), 1)}
    assert set(task.metrics(total)) == set(kind.metric_names)


def test_less_is_better_only_of_what_falls():
    assert falls("perplexity")
    assert falls("loss", "gone_module:task")
    assert not falls("accuracy", "sequence-classification")
    assert not falls("never heard of")


def test_a_task_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"task\.name is 'nxt'; expected one of .*next-token"):
        task_of("nxt")
    with pytest.raises(ConfigError, match=r"task\.name is 'json:dumps', which is a function"):
        task_of("json:dumps")


def test_a_device_imports_a_task_only_if_it_is_told_to():
    allow([])
    try:
        with pytest.raises(ConfigError, match=r"this device does not import 'my_task'"):
            task_of("my_task:ANSWER")
    finally:
        allow(None)
