"""What a run tells the launcher that started it: where it lies, and how it ended.

Between the two stand SuperLink, SuperExec and Ray, any of which may die or take a minute to say
what happened. So the launcher names a file in the environment, and the run writes into it. The file
has its full size from the beginning, and is written over in place: that works on a full disk, too.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fedllm_app.core.errors import FULL, EngineError, FedllmError

VARIABLE = "FEDLLM_NOTE"
SIZE, LONGEST = 4096, 2000  # bytes of the file, characters of a reason
DONE = "done"


@dataclass(frozen=True)
class Note:
    """What is known of a run.

    Attributes
    ----------
    folder, name : of the run; empty until it has been opened.
    ended : empty while it goes on, "done", or the kind of error that ended it.
    why : the error's sentence.
    """

    folder: str = ""
    name: str = ""
    ended: str = ""
    why: str = ""


def make_note(path: Path) -> None:
    """Make an empty note, as large as it will ever be and on the disk."""
    with path.open("wb") as file:
        file.write(b" " * SIZE)
        file.flush()
        os.fsync(file.fileno())


def read_note(path: Path) -> Note:
    """Return what a run has told; an empty note where it has told nothing."""
    with suppress(OSError, ValueError, TypeError):
        return Note(**json.loads(path.read_bytes()))
    return Note()


def tell(note: Note) -> None:
    """Write to whoever has started this process, if there is such a one."""
    path = os.environ.get(VARIABLE, "")
    if not path:
        return
    text = json.dumps(asdict(note) | {"why": note.why[:LONGEST]}).encode()[:SIZE].ljust(SIZE)
    with suppress(OSError):  # a launcher that is gone has taken its note with it
        with open(path, "r+b", buffering=0) as file:
            file.write(text)


@contextmanager
def told(folder: Path, name: str) -> Iterator[None]:
    """Tell where a run lies, and how it ends.

    Raises
    ------
    EngineError
        If the disk is full: in the words of a user, with the folder.
    """
    note = Note(str(folder), name)
    tell(note)
    try:
        with _without_room(folder):
            yield
    except BaseException as error:
        ours = isinstance(error, FedllmError)
        why = str(error) if ours else f"{type(error).__name__}: {error}"
        tell(Note(note.folder, note.name, type(error).__name__, why))
        raise
    tell(Note(note.folder, note.name, DONE))


@contextmanager
def _without_room(folder: Path) -> Iterator[None]:
    """Say in our words that a disk is full, whoever found it out."""
    try:
        yield
    except Exception as error:
        # safetensors and Arrow have errors of their own, with the system's words in them.
        full = getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT) or FULL in str(error)
        if not full or isinstance(error, FedllmError):
            raise
        place = getattr(error, "filename", None) or folder
        raise EngineError(
            f"the disk of {place} is full: make room, and start the same run.name again to go on"
        ) from error
