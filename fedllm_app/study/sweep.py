"""Play many runs: cell by cell, a process each, resumable at any moment.

A cell is a run by name and settings. One that is finished is never played again; one that was cut
off goes on from its own checkpoint. Nothing here is kept beside the runs' folders, so a sweep has
no state of its own that could disagree with them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.config.checks import PATH_KEYS
from fedllm_app.core.errors import ConfigError, FedllmError
from fedllm_app.core.progress import duration
from fedllm_app.core.settings import Scalar
from fedllm_app.models.export import has_result
from fedllm_app.play import CHANGEABLE
from fedllm_app.run.checkpoint import newest_whole
from fedllm_app.run.metrics import iterate_lines, read_lines
from fedllm_app.study.crew import Crew, processes

Say = Callable[[str], None]
# Neither where things lie nor how many threads read them makes a run another one.
ELSEWHERE = (*CHANGEABLE, *PATH_KEYS, "run.name", "client.threads")


class SweepError(FedllmError):
    """Some cells of a sweep failed; the others are finished.

    Attributes
    ----------
    failed : why, by the name of the cell; empty where the sweep did not begin.
    """

    def __init__(self, words: str, failed: Mapping[str, str] | None = None) -> None:
        super().__init__(words)
        self.failed = dict(failed or {})


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes
    ----------
    name : its run.name.
    settings : run-config by dotted key, without name and home.
    """

    name: str
    settings: Mapping[str, Scalar]

    def config(self, home: Path) -> RunConfig:
        """Return the checked configuration, one thread unless the settings say otherwise."""
        place: dict[str, Scalar] = {"run.home": str(home), "run.name": self.name}
        return RunConfig.parse({"client.threads": 1} | dict(self.settings) | place)


def finished(cell: Cell, home: Path) -> bool:
    """Say whether the cell has been played to its end.

    Raises
    ------
    ConfigError
        If its settings are wrong.
    SweepError
        If a run of its name was played with other settings.
    """
    folder, config = home / "runs" / cell.name, cell.config(home)
    if not (folder / "config.toml").exists():
        return False
    before, now = read_recipe(folder / "config.toml"), config.resolved().flat()
    # A run of an earlier version lacks later keys; only what the cell itself asks for counts.
    changed = [
        f"{key} was {before[key]!r} and is {now[key]!r}"
        for key in cell.settings
        if key not in ELSEWHERE and key in before and before[key] != now[key]
    ]
    if changed:
        raise SweepError(
            f"run {cell.name!r} in {home} was played with other settings: {'; '.join(changed)}. "
            "Rename its folder, or choose another home"
        )
    restored = newest_whole(folder / "checkpoints")
    if restored is None:
        return False
    progress = restored.state
    if not has_result(folder, progress.round):
        return False
    whole = f"all {progress.round} rounds"
    return progress.round >= config.run.rounds or progress.finished not in ("", whole)


def rounds_left(cell: Cell, home: Path) -> int:
    """Return the rounds that the cell still has to play, as far as its metrics tell."""
    if finished(cell, home):
        return 0
    rounds = (r["round"] for r in iterate_lines(home / "runs" / cell.name / "metrics.jsonl"))
    return max(1, cell.config(home).run.rounds - max(rounds, default=0))


def seconds_left(
    cells: Sequence[Cell], home: Path, before: Sequence[Cell] = (), later: int = 0
) -> float | None:
    """Return the seconds of one worker that the cells still need, None if nothing was measured.

    A round costs what rounds of the same task and model have cost so far; a kind without any
    measured round costs the mean of the others.

    Parameters
    ----------
    before : cells that need nothing more, and tell what a round costs.
    later : runs to come that nobody knows yet: each takes the mean of those that are known.
    """
    spent: dict[tuple[str, str], list[float]] = {}
    left: dict[tuple[str, str], int] = {}
    asked: dict[tuple[str, str], int] = {}
    by_rounds = sorted((*before, *cells), key=lambda cell: cell.config(home).run.rounds)
    longest = {cell.name: cell for cell in by_rounds}  # of one name, the longest holds the others
    open_ = {cell.name for cell in cells}
    for cell in longest.values():
        config = cell.config(home)
        kind = (config.task.name, config.model.source)
        timing = read_lines(home / "runs" / cell.name / "timing.jsonl")
        spent.setdefault(kind, []).extend(r["seconds"] for r in timing if "seconds" in r)
        to_play = rounds_left(cell, home) if cell.name in open_ else 0
        left[kind] = left.get(kind, 0) + to_play
        asked[kind] = asked.get(kind, 0) + config.run.rounds
    every = [seconds for measured in spent.values() for seconds in measured]
    if not every:
        return None
    return sum(
        (left[kind] + later * asked[kind] / len(longest))
        * sum(measured or every)
        / len(measured or every)
        for kind, measured in spent.items()
    )


def play(
    cells: Sequence[Cell],
    home: Path,
    workers: int = 2,
    say: Say = print,
    crew: Callable[[], AbstractContextManager[Crew]] = processes,
    before: Sequence[Cell] = (),
    later: int = 0,
    failed: dict[str, str] | None = None,
) -> None:
    """Play the cells that are not finished, `workers` at a time, in the order given.

    Each plays in a process of its own with one torch thread; its log goes to
    <home>/logs/<name>.log. Two cells of one name (the same run, longer) are played one after the
    other. Ended by Ctrl-C or SIGTERM it takes its processes with it; started again it goes on.

    Parameters
    ----------
    crew : where the processes are: on this machine, or on those of a Ray cluster.
    before, later : where this is a part of a sweep: its cells that are over, and how many runs come
        after these. What is said of the time left covers them all.
    failed : takes in why cells failed, by name, as it happens.

    Raises
    ------
    SweepError
        At the end, if some cells failed; it names them. At once if there are no workers.
    """
    if workers < 1:
        raise SweepError(f"workers is {workers}; expected 1 or more")
    failed = {} if failed is None else failed
    good, waiting = _looked_through(cells, home, say, failed)
    counts = f"{len(good) - len(waiting)} are finished, {len(waiting)} to play"
    say(f"{_which(len(cells), len(before), later)}: {counts}")
    at_work: dict[str, Cell] = {}
    known = [cell for cell in before if _is_legal(cell, home)]
    with crew() as hands:
        while waiting or at_work:
            for cell in _next(waiting, at_work, workers):
                hands.start(cell.name, cell.config(home), _begun_log(home, cell.name))
            for name, seconds, played in hands.ended():
                cell, took = at_work.pop(name), duration(seconds)
                if played:
                    still = len(waiting) + len(at_work) + later
                    rest = _rest(good, still, home, workers, known, later)
                    say(f"{name}: {_result(home, name)} in {took}; {still} left{rest}")
                else:
                    failed[name] = f"{_last_words(home, name)} (more in {_log_file(home, name)})"
                    say(f"{name} failed after {took}: {failed[name]}")
                    good.remove(cell)
    if failed:
        raise _failure(len(cells), failed)


def _looked_through(
    cells: Sequence[Cell], home: Path, say: Say, failed: dict[str, str]
) -> tuple[list[Cell], list[Cell]]:
    """Return the cells that can be played, and those of them that are not finished."""
    good: list[Cell] = []
    waiting: list[Cell] = []
    for cell in cells:
        try:
            done = finished(cell, home)
        except FedllmError as error:
            failed[cell.name] = str(error)
            say(f"{cell.name} is not played: {error}")
            continue
        good.append(cell)
        waiting += [] if done else [cell]
    return good, waiting


def _is_legal(cell: Cell, home: Path) -> bool:
    """Say whether the cell's settings can be played."""
    try:
        cell.config(home)
    except ConfigError:
        return False
    return True


def _next(waiting: list[Cell], at_work: dict[str, Cell], workers: int) -> Iterator[Cell]:
    """Move waiting cells to those at work, and yield them, until all workers are busy."""
    while len(at_work) < workers:
        cell = next((c for c in waiting if c.name not in at_work), None)
        if cell is None:
            return
        waiting.remove(cell)
        at_work[cell.name] = cell
        yield cell


def _begun_log(home: Path, name: str) -> Path:
    """Return the log of a cell, made: a process that dies at once has said nothing."""
    log = _log_file(home, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    return log


def _log_file(home: Path, name: str) -> Path:
    return home / "logs" / f"{name}.log"


def _last_words(home: Path, name: str) -> str:
    lines = _log_file(home, name).read_text("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _result(home: Path, name: str) -> str:
    """Return the headline metric of a run that has just been played."""
    records = read_lines(home / "runs" / name / "metrics.jsonl")
    evaluated = [r["evaluation"] for r in records if r.get("evaluation")]
    headline = records[0].get("headline", "")
    return f"{headline} {evaluated[-1][headline]:.4f}" if evaluated and headline else "played"


def _which(count: int, before: int, later: int) -> str:
    """Return which cells of a sweep these are."""
    if not before and not later:
        return f"{count} cells"
    return f"cells {before + 1} to {before + count} of {before + count + later}"


def _failure(count: int, failed: Mapping[str, str]) -> SweepError:
    """Return the error that names the cells which failed."""
    words = "\n".join(f"{name}: {why}" for name, why in failed.items())
    return SweepError(f"{len(failed)} of {count} cells failed\n{words}", failed)


def _rest(
    cells: Sequence[Cell], still: int, home: Path, workers: int, before: Sequence[Cell], later: int
) -> str:
    """Return the estimate of the time that `still` runs need, in words; "" without any."""
    seconds = seconds_left(cells, home, before, later) if still else None
    return "" if seconds is None else f", about {duration(seconds / min(workers, still))}"
