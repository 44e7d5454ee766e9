"""The commands `fedllm chat`, `generate` and `eval`: what a model can do once its run has ended."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(help="Name or folder of a run.")]
Base = Annotated[
    str, typer.Option(help="The base where it has moved: its folder, hub name or .gguf file.")
]
Home = Annotated[Path, typer.Option(help="Folder for runs and caches.")]
Device = Annotated[
    str,
    typer.Option(
        help="Where it computes: cuda (in bfloat16), cpu (in float32), or auto, a GPU if there is "
        "one."
    ),
]
Most = Annotated[int, typer.Option(help="Most tokens of an answer.")]
HOME = Path.home() / ".fedllm"
Find = Callable[[str, Path], Path]


def commands(find: Find) -> dict[str, Callable[..., None]]:
    """Return the commands by name; `find` returns the folder of a run by its name."""

    def chat(
        name: Run,
        system: Annotated[str, typer.Option(help="What a conversation begins with.")] = "",
        max_tokens: Most = 256,
        device: Device = "auto",
        base: Base = "",
        home: Home = HOME,
    ) -> None:
        """Talk to the model of a run; /new begins another conversation, /quit ends."""
        from fedllm_app.talk.chat import talk
        from fedllm_app.talk.loaded import speaker

        found = speaker(find(name, home), base, home.resolve() / "cache", device)
        talk(found, _lines(), _write, max_tokens, system)

    def generate(
        name: Run,
        file: Annotated[Path, typer.Argument(help="Rows to answer: .jsonl, .parquet, .csv, ...")],
        out: Annotated[Path | None, typer.Option(help="File to write, .jsonl.")] = None,
        max_tokens: Most = 256,
        device: Device = "auto",
        base: Base = "",
        home: Home = HOME,
    ) -> None:
        """Answer every row of a file, and score the answers where it has responses."""
        from fedllm_app.talk.loaded import speaker
        from fedllm_app.talk.rows import answer_file

        target = out or file.with_name(f"{file.stem}-answers.jsonl")
        found = speaker(find(name, home), base, home.resolve() / "cache", device)
        scored = answer_file(found, file, target, max_tokens)
        for metric, value in scored.items():
            typer.echo(f"{metric} {value:.4f}")
        typer.echo(target)

    def evaluate(
        name: Run,
        tasks: Annotated[str, typer.Option(help="Tasks of lm-evaluation-harness, with commas.")],
        out: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
        include_path: Annotated[
            Path | None, typer.Option(help="Folder with tasks of your own, as .yaml.")
        ] = None,
        limit: Annotated[int, typer.Option(help="Examples of each task; 0 is all.")] = 0,
        chat_template: Annotated[bool, typer.Option(help="Ask as in a conversation.")] = False,
        device: Device = "auto",
        base: Base = "",
        home: Home = HOME,
    ) -> None:
        """Evaluate the model of a run with lm-evaluation-harness."""
        from fedllm_app.talk.harness import evaluate as hand_over

        run = find(name, home)
        cache = home.resolve() / "cache"
        hand_over(
            run, tasks, out or run / "eval", base, cache, include_path, limit, chat_template, device
        )  # fmt: skip

    return {"chat": chat, "generate": generate, "eval": evaluate}


def _lines() -> Iterator[str]:
    """Yield what is typed, with a sign in front of it where somebody sees it."""
    while True:
        if sys.stdin.isatty():
            _write("> ")
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
