"""Namespace `data`: which examples, which columns, and what the server evaluates on."""

from typing import Literal

from pydantic import Field

from fedllm_app.core.settings import Settings

EMBEDDED = "embedded"
NODE = "node"
TEXTS = {EMBEDDED: "fedllm_app.demo.texts:TEXTS"}  # names that stand for text of ours
TEST = "test"


class DataSettings(Settings):
    """Namespace `data`: which examples, which columns, and what the server evaluates on."""

    train: str = Field(
        EMBEDDED,
        min_length=1,
        description='Training examples: "embedded" (the demonstration), a hub name, an '
        "absolute path of a .parquet, .jsonl, .json, .csv or .tsv file, of a folder of such, or of "
        'a folder with a folder for each source (the column "folder" then has its name), '
        '"node" (each device has its own file), or MODULE:NAME of a function.',
    )
    test: str = Field(
        "",
        description='Test examples, in the same forms as data.train. "" takes the test split, '
        "or the test file beside the training file, or else holds out a share of "
        "the training examples.",
    )
    config: str = Field("", description="Configuration (subset) of a hub data set.")
    train_split: str = Field("train", min_length=1, description="Name of the split to train on.")
    test_split: str = Field(TEST, min_length=1, description="Name of the split to test on.")
    text_column: str = Field("text", min_length=1, description="Name of the column with the text.")
    label_column: str = Field(
        "label", min_length=1, description="Name of the column with the label."
    )
    image_column: str = Field(
        "image", min_length=1, description="Name of the column with the image."
    )
    user_column: str = Field(
        "user",
        min_length=1,
        description="Name of the column with the user, for natural partitions.",
    )
    domain_column: str = Field(
        "domain",
        min_length=1,
        description="Name of the column with the domain or topic of a text: a Dirichlet partition "
        "can divide domains, and round.evaluate-clients measures each one.",
    )
    instruction_column: str = Field(
        "instruction",
        min_length=1,
        description="Name of the column with the instruction (task instruction, for rows without "
        "messages or prompt and completion).",
    )
    input_column: str = Field(
        "input",
        min_length=1,
        description="Name of the column with what an instruction is about, put below it; it may "
        "be missing.",
    )
    response_column: str = Field(
        "response", min_length=1, description="Name of the column with the response."
    )
    labels: str = Field(
        "",
        description="Label set: the labels by value, separated by commas, or a number n for the "
        'labels 0 to n-1. "" takes the labels that occur in the training data, sorted. Required '
        'for classification with data.train = "node".',
    )
    label_numbers: Literal["values", "positions"] = Field(
        "values",
        description='What a number in the label column is: "values", a label like any other, or '
        '"positions", the place of a name in data.labels, from 0.',
    )
    bad_rows: Literal["refuse", "drop"] = Field(
        "refuse",
        description="Rows without a label (empty, or -1 unless data.labels names it), without "
        'text, or that cannot be read: "refuse" the data, or "drop" these rows and count them.',
    )
    delimiter: str = Field(
        "",
        max_length=3,
        description='What separates the cells of a .csv or .tsv file: one character, or "tab". '
        'Automatic: "," for .csv and a tab for .tsv.',
    )
    encoding: str = Field(
        "utf-8", description="Encoding of .csv, .tsv, .json and .jsonl files, such as latin-1."
    )
    strip: Literal["none", "headers"] = Field(
        "none",
        description='"headers" removes all text before the first blank line, for example the '
        "headers of Usenet posts.",
    )
    documents: Literal["apart", "joined"] = Field(
        "apart",
        description="Documents in a packed row (pretraining): attention stays inside each one "
        '("apart"), or crosses from one to the next ("joined").',
    )
    image_side: int = Field(
        0,
        ge=0,
        description="Side in pixels that images are resized to. 0 takes the size of the model.",
    )
    evaluate_on: Literal["test", "validation"] = Field(
        "test",
        description='"validation" evaluates on a share of the training examples that no '
        "client gets. Use it to tune settings.",
    )
    client_holdout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of every client's texts that it does not train on and is measured by "
        "(round.evaluate-clients). 0 holds out none.",
    )
    unseen_clients: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the clients that never train and are measured (round."
        "evaluate-clients). 0 leaves all in.",
    )
    holdout: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of the training examples that is held out where a share is needed.",
    )
    eval_examples: int = Field(
        0,
        ge=0,
        description="Number of test examples to evaluate on, always the same ones. 0 means all.",
    )
