"""The texts of the study: documents as users, public text to pre-train on, and one tokenizer.

Users' text is Shakespeare by role, as it is, and articles of an encyclopedia, each a user of its
own, cut at blank lines. Public text is three other kinds of prose. The tokenizer is trained on the
public text alone, since a server sees no user's text, and is that of every run; so perplexities
of the pre-trained and the new models count the same tokens.
"""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.crossdevice.cells import (
    ARTICLES,
    FAMILIES,
    LARGE,
    PRETRAINED,
    PUBLIC,
    ROLES,
    SMALL,
    TOKENIZER,
    pretrained,
)
from benchmarks.study_kit.entry import Settings
from fedllm_app.core.errors import DataError
from fedllm_app.data.cache import build_once

SOURCES = ("literature", "textbooks", "techdocs")  # of public text
CHARACTERS = 2_500_000  # of each source; about 2 million tokens together
USERS, SHORTEST = 1500, 1000  # articles, and their characters
VOCABULARY = 4096


def places(home: Path, data: Mapping[str, Path]) -> Settings:
    """Return what this machine has in the place of each placeholder."""
    shapes = [f"{family}-{size}" for family in FAMILIES for size in (SMALL, LARGE)]
    models = {f"{PRETRAINED}/{s}": str(home / "runs" / pretrained(s) / "model") for s in shapes}
    files = {ARTICLES: "articles.parquet", PUBLIC: "public.parquet", TOKENIZER: "tokenizer"}
    made = {key: str(home / "text" / name) for key, name in files.items()}
    return models | made | {ROLES: str(data["roles"])}


def prepare(home: Path, data: Mapping[str, Path]) -> Settings:
    """Write the texts and the tokenizer once, and return the places.

    Raises
    ------
    DataError
        If a source is missing.
    """
    for source in (*SOURCES, "wikipedia"):
        if not (data["text"] / source / "train.parquet").is_file():
            raise DataError(
                f"--text is {str(data['text'])!r}; expected {source}/train.parquet in it, with a "
                "column text"
            )
    build_once(home / "text", lambda folder: write(folder, data["text"]))
    return places(home, data)


def write(folder: Path, text: Path) -> None:
    """Write articles.parquet (user, text), public.parquet (text) and tokenizer/ into a folder."""
    import pyarrow
    from pyarrow import parquet

    from fedllm_app.models.vocabulary import train

    public = [document for source in SOURCES for document in beginning(text / source)]
    parquet.write_table(pyarrow.table({"text": public}), folder / "public.parquet")
    rows = by_article(texts_of(text / "wikipedia"))
    users, parts = zip(*rows, strict=True)
    table = pyarrow.table({"user": list(users), "text": list(parts)})
    parquet.write_table(table, folder / "articles.parquet")
    train(iter([public]), VOCABULARY).save_pretrained(folder / "tokenizer")


def texts_of(folder: Path) -> list[str]:
    """Return the texts of a source."""
    from pyarrow import parquet

    found: list[str] = parquet.read_table(folder / "train.parquet")["text"].to_pylist()
    return found


def beginning(folder: Path) -> list[str]:
    """Return the first documents of a source, about CHARACTERS together."""
    chosen, left = list[str](), CHARACTERS
    for text in texts_of(folder):
        if left <= 0:
            break
        chosen.append(text[:left])
        left -= len(text)
    return chosen


def by_article(articles: list[str]) -> list[tuple[str, str]]:
    """Return (user, text): the paragraphs of the first long articles, each article a user."""
    long = [article for article in articles if len(article) >= SHORTEST][:USERS]
    return [
        (f"article {number}", paragraph)
        for number, article in enumerate(long)
        for paragraph in article.split("\n\n")
        if paragraph.strip()
    ]
