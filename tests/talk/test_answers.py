"""What a model answers to held-out conversations, and how answers are scored."""

import pytest

from fedllm_app.data.table import Table
from fedllm_app.talk.sample import sample
from fedllm_app.talk.scores import rouge_l, scores


@pytest.mark.parametrize(
    ("said", "reference", "wanted"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("The cat, sat.", "the cat sat", 1.0),
        # 3 of 3 words and 3 of 4: 2 * 1 * 0.75 / 1.75.
        ("the cat sat", "the cat sat down", 6 / 7),
        ("a dog", "the cat", 0.0),
        ("", "the cat", 0.0),
    ],
)
def test_rouge_l_of_answers_worked_out_by_hand(said, reference, wanted):
    assert rouge_l([said], [reference]) == [pytest.approx(wanted, abs=1e-6)]


def test_scores_are_means_over_answers():
    assert scores([], []) == {}
    found = scores([" yes ", "no"], ["yes", "the cat"])
    assert found == {"exact-match": 0.5, "rouge-l": pytest.approx(0.5)}


def packed():
    import pyarrow

    fixed = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array([5, 6, 2, 4, 9, 2, 0, 0]), 8)
    lists = pyarrow.list_(pyarrow.int32())
    return Table(
        pyarrow.table(
            {
                "input_ids": fixed,
                "responses": pyarrow.array([[1, 3, 4, 6]], lists),
                "asked": pyarrow.array([[0, 1, 3, 4]], lists),
                "starts": pyarrow.array([[0, 3, 6]], lists),
            }
        )
    )


def test_of_a_packed_row_the_first_conversation_is_asked(tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.root / "llama")
    (one,) = sample(packed(), tokenizer, 3)
    assert (one.prompt, one.reference) == ([5], tokenizer.decode([6]))
    assert one.question == tokenizer.decode([5])
