"""What a model answers to held-out conversations, and how answers are scored."""

import json

import pytest

from fedllm_app.config import RunConfig
from fedllm_app.data.table import Table
from fedllm_app.play import run_local
from fedllm_app.report.answers import answers_tables
from fedllm_app.talk.answers import answers
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
                "starts": pyarrow.array([[0, 3, 6]], lists),
            }
        )
    )


def test_of_a_packed_row_the_first_conversation_is_asked(tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.root / "llama")
    (one,) = sample(packed(), tokenizer, 3)
    assert (one.prompt, one.reference) == ([5], tokenizer.decode([6]))


def test_a_run_answers_before_and_after_training_and_shows_it(tiny):
    keys = tiny.keys("instruction") | {
        "run.name": "answering", "run.rounds": 4, "partition.clients": 2, "round.clients": 2,
        "client.lr": 0.03, "client.optimizer": "adamw", "client.batch": 2, "client.epochs": 2,
        "model.train": "full", "strategy.name": "fedavg", "task.max-tokens": 32,
        "task.generate": 5, "task.generate-tokens": 6, "round.evaluate-every": 4,
    }  # fmt: skip
    folder = run_local(RunConfig.parse(keys))
    found = json.loads((folder / "answers.json").read_text("utf-8"))
    texts = found["texts"]
    assert (found["round"], len(texts)) == (4, 5)
    assert {text["reference"] for text in texts} <= {"moon", "ice", "rock"}
    assert found["after"]["exact-match"] > found["before"]["exact-match"]
    # The score is that of the texts beside it.
    same = sum(text["after"] == text["reference"] for text in texts) / 5
    assert found["after"]["exact-match"] == pytest.approx(same)
    page = (folder / "report.html").read_text("utf-8")
    assert "What is answered" in page and texts[0]["after"] in page
    assert [table.title for table in answers_tables(folder)] == ["Answers", "What is answered"]
    # The saved model says the same, whether alone or in a batch with longer prompts.
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": c}], add_generation_prompt=True, return_dict=False
        )
        for c in ("the sun", "a sea of the sea", "sand")
    ]
    alone = [answers(model, tokenizer, [prompt], 6)[0] for prompt in prompts]
    assert answers(model, tokenizer, prompts, 6) == alone
