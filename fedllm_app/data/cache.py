"""Build a folder once, whatever the number of processes that want it.

Every simulated worker, the server and a later run open the same prepared data. The first builder
writes to a folder beside the final one and renames it, so that a folder that exists is complete.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from fedllm_app.core.files import fsync_tree


def digest(*parts: Any) -> str:
    """Return 32 hexadecimal digits that depend on every part, each of which JSON can hold."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, filled by `build` if no process has filled it before.

    Processes that come while one is building wait for it. A builder that was killed leaves its
    temporary folder, which the next one removes.

    Parameters
    ----------
    folder : absolute path that holds the result.
    build : writes the contents into the folder it is given; what it raises is raised here.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if folder.exists():
            return folder
        for stale in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            build(temporary)
            fsync_tree(temporary)
            temporary.rename(folder)
        except OSError:
            # Where the file system has no locks another builder may have been faster.
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
