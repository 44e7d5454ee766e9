"""Which files are read: what their names say, and how their text is opened and unpacked."""

import codecs
import gzip
import io
import zlib
from pathlib import Path
from typing import IO, cast

from fedllm_app.core.errors import DataError, first_line

PARQUET = ".parquet"
TEXTS = (".jsonl", ".json", ".csv", ".tsv")  # these may be packed
PACKED = (".gz", ".zst")
SUFFIXES = (PARQUET, *TEXTS, *(text + packed for text in TEXTS for packed in PACKED))
LEGAL = f"{PARQUET}, {', '.join(TEXTS[:-1])} or {TEXTS[-1]}, all but the first also as .gz or .zst"
WIDE = ("utf-16", "utf-32")  # in these a line does not end in one byte


def suffix_of(path: Path) -> str:
    """Return what the name of a file that is read ends in, such as ".csv.gz"; "" of any other."""
    name = path.name.lower()
    found = max((s for s in SUFFIXES if name.endswith(s)), key=len, default="")
    return path.name[len(path.name) - len(found) :] if found else ""


def stem_of(path: Path) -> str:
    """Return the name of a file without what it ends in: "train" of train.csv.gz."""
    return path.name.removesuffix(suffix_of(path))


def is_table_of_text(path: Path) -> bool:
    """Return whether a file is one of cells between delimiters."""
    return suffix_of(path).lower().startswith((".csv", ".tsv"))


def delimiter_of(path: Path, asked: str) -> str:
    """Return what stands between the cells of a file; `asked` is the setting, "" automatic."""
    if asked:
        return "\t" if asked == "tab" else asked
    return "\t" if suffix_of(path).lower().startswith(".tsv") else ","


def is_encoding(name: str) -> bool:
    """Return whether Python knows an encoding of text by this name."""
    try:
        return codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError):
        return False


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file as the bytes of its text, unpacked as its name says."""
    if path.name.lower().endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.name.lower().endswith(".zst"):
        import pyarrow

        raw = pyarrow.input_stream(str(path), compression="zstd")
        return cast(IO[bytes], io.BufferedReader(raw, 1 << 20))
    return path.open("rb")


def open_text(path: Path, encoding: str) -> IO[str]:
    """Open a file as text; a byte-order mark is no part of it, and line ends stay as they are."""
    name = codecs.lookup(encoding).name
    return io.TextIOWrapper(
        open_bytes(path), encoding="utf-8-sig" if name == "utf-8" else name, newline=""
    )


# What reading packed bytes raises where they are torn: gzip, zlib, and Arrow's zstd.
TORN = (EOFError, gzip.BadGzipFile, zlib.error, OSError)


def unreadable(path: Path, said: str, error: Exception, encoding: str) -> DataError:
    """Return the error of a file whose bytes cannot be unpacked or are no text.

    Parameters
    ----------
    path : of the file.
    said : the setting that named it.
    error : what reading it raised, a UnicodeError or one of `TORN`.
    encoding : of the setting.
    """
    if not isinstance(error, UnicodeError):
        return DataError(
            f"{said}: {path} cannot be unpacked: {first_line(error)}; the file is damaged or not "
            "complete. Write it again"
        )
    where = _first_undecodable(path, encoding)
    other = "utf-8" if codecs.lookup(encoding).name != "utf-8" else "latin-1"
    with open_bytes(path) as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            other = "utf-16"
    return DataError(
        f"{said}: {where or path} is not {encoding} text ({first_line(error)}); set data.encoding "
        f"to that of the file, for example {other}, or save the file as utf-8"
    )


def _first_undecodable(path: Path, encoding: str) -> str:
    """Return "line L, byte B of FILE" of the first line that is no text, "" where lines differ."""
    if codecs.lookup(encoding).name.startswith(WIDE):
        return ""
    before = 0
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode(encoding)
            except UnicodeError as error:
                inside = getattr(error, "start", 0)
                return f"line {number} (byte {before + inside}, 0x{line[inside]:02x}) of {path}"
            before += len(line)
    return ""
