"""Ascending positions as bytes: a bitmap, or the gaps between them in a Rice code.

A Rice code with parameter k (Rice and Plaunt 1971) splits every gap into gap >> k, sent in unary,
and its k low bits. The two parts are kept in streams of their own: the unary stream is then a
bitmap whose ones can be found all at once, so that nothing here loops over coordinates. Where
that stream holds few ones, groups of three of its bits are written in a fixed prefix code of
2 to 4 bits ("shortened"). At most 1.02 times the entropy of random supports, the bitmap
included, at every density from 1/2 to 1/1000. docs/wire-format.md has the bytes.

Shapes: P flat trainable parameters, K positions, U bits of the unary stream, N groups of three.
"""

from dataclasses import dataclass

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.wire.blocks import parts
from fedllm_app.wire.marks import FEW, Marks

MAX_K = 31
# Codes of the eight groups of three bits (first bit lowest), left-aligned in four, first bit
# highest: groups with few ones get short codes. 0 -> 00, one 1 -> 3 bits, and so on.
_CODE = np.array([0b0000, 0b0100, 0b0110, 0b1010, 0b1000, 0b1100, 0b1110, 0b1111], dtype=np.uint8)
_LENGTH = np.array([2, 3, 3, 3, 3, 3, 4, 4], dtype=np.uint8)
_GROUP = np.zeros(16, dtype=np.uint8)
_GROUP[_CODE] = np.arange(8, dtype=np.uint8)


@dataclass(frozen=True)
class Rice:
    """How one support is Rice-coded, and the finished bytes."""

    k: int
    shortened: bool
    data: np.ndarray


def bitmap_bytes(P: int) -> int:
    """Return the length of a bitmap over P coordinates."""
    return -(-P // 8)


def max_rice_bytes(K: int, P: int) -> int:
    """Return the length that no support of K among P coordinates exceeds in a Rice code."""
    if K == 0:
        return 0
    # The encoder minimises bits; rounding two streams up to bytes may cost one byte more.
    return 1 + min(bitmap_bytes(K + (P - K >> k)) + bitmap_bytes(K * k) for k in range(MAX_K + 1))


def check_positions(positions: np.ndarray, P: int) -> None:
    """Raise WireError unless the positions are strictly ascending in 0..P-1."""
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        raise WireError(
            f"positions are {positions.dtype} of shape {positions.shape}; "
            "expected one dimension of integers"
        )
    if positions.size == 0:
        return
    if int(positions[0]) < 0 or int(positions[-1]) >= P:
        raise WireError(
            f"positions run from {int(positions[0])} to {int(positions[-1])}; "
            f"expected 0 to at most {P - 1}"
        )
    check_ascending(positions)


def check_ascending(positions: np.ndarray) -> None:
    """Raise WireError unless each position is above the one before."""
    for part in parts(positions.size - 1):
        if not bool((positions[part.start + 1 : part.stop + 1] > positions[part]).all()):
            raise WireError("positions are not strictly ascending")


def encode_bitmap(positions: np.ndarray, P: int) -> np.ndarray:
    """Return one bit per coordinate, lowest bit of a byte first; padding bits are 0."""
    bits_P = np.zeros(P, dtype=np.bool_)
    bits_P[positions] = True
    return np.packbits(bits_P, bitorder="little")


def decode_bitmap(data: np.ndarray, P: int, K: int) -> Marks:
    """Return the positions of a bitmap, a view of it.

    Raises
    ------
    WireError
        If its length is not that of P coordinates, it does not hold K ones, or its padding is set.
    """
    if data.size != bitmap_bytes(P):
        raise WireError(f"bitmap has {data.size} bytes; expected {bitmap_bytes(P)} for P={P}")
    marks = Marks(data)
    if marks.size != K:
        raise WireError(f"bitmap holds {marks.size} positions; the header says {K}")
    if P % 8 and int(data[-1]) >> P % 8:
        raise WireError("padding bits of the bitmap are set; expected zeros")
    return marks


def encode_rice(positions: np.ndarray, P: int) -> Rice:
    """Return the shortest Rice code of strictly ascending positions below P."""
    if positions.size == 0:
        return Rice(0, False, np.zeros(0, dtype=np.uint8))
    narrow = np.uint32 if P <= 1 << 32 else np.uint64
    gaps = np.empty(positions.size, dtype=narrow)
    gaps[0] = positions[0]
    np.subtract(positions[1:], positions[:-1], out=gaps[1:], casting="unsafe")
    np.subtract(gaps[1:], narrow(1), out=gaps[1:])
    k = _best_k(gaps, P)
    unary = _unary(gaps, k)
    best = Rice(k, False, _rice_sections(np.packbits(unary, bitorder="little"), gaps, k))
    # A shortened stream likes fewer ones than the best plain one has: the next smaller k is tried.
    for other, bits in ((k, unary), (k - 1, None)):
        if other >= 0:
            short = _shorten(_unary(gaps, other) if bits is None else bits)
            if short.size + bitmap_bytes(gaps.size * other) < best.data.size:
                best = Rice(other, True, _rice_sections(short, gaps, other))
    return best


def decode_rice(rice: Rice, P: int, K: int) -> np.ndarray | Marks:
    """Return the positions of a Rice code: few as int64, many as one bit for each coordinate.

    Memory is a few times the code, and P bytes for many.

    Raises
    ------
    WireError
        If the code is not the one that an encoder with this k writes for K positions below P.
    """
    data, k = rice.data, rice.k
    if not 0 <= k <= MAX_K:
        raise WireError(f"Rice parameter is {k}; expected 0 to {MAX_K}")
    low_bytes = bitmap_bytes(K * k)
    unary_bytes = data.size - low_bytes
    # The quotients of K gaps that sum to at most P - K cannot sum to more than (P - K) >> k.
    most_U = K + ((P - K) >> k) if K else 0
    if unary_bytes < 0 or (not rice.shortened and unary_bytes > bitmap_bytes(most_U)):
        raise WireError(
            f"Rice code has {data.size} bytes; expected {low_bytes} of low bits and at most "
            f"{bitmap_bytes(most_U)} of quotients"
        )
    low_data = data[unary_bytes:]
    if low_data.size and int(low_data[-1]) >> ((K * k - 1) % 8 + 1):
        raise WireError("padding bits after the low bits are set; expected zeros")
    ends = Marks((_lengthen if rice.shortened else _tight)(data[:unary_bytes], most_U))
    if ends.size != K:
        raise WireError(f"Rice code holds {ends.size} positions; the header says {K}")
    few = K <= P // FEW
    found = np.empty(K, dtype=np.int64) if few else np.zeros(P, dtype=np.bool_)
    # ends[i] = i + sum of quotients up to i, and position i = i + sum of gaps up to i.
    lows = 0
    for part in parts(K, 8):
        order = np.arange(part.start, part.stop)
        low = np.cumsum(_unpack_low(low_data, part, k), dtype=np.int64) + lows
        positions = (ends.part(part) - order << k) + order + low
        lows = int(low[-1])
        if int(positions[-1]) >= P:
            raise WireError(f"last position is {int(positions[-1])}; expected at most {P - 1}")
        if few:
            found[part] = positions
        else:
            found[positions] = True
    return found if few else Marks.of(found)


def _best_k(gaps: np.ndarray, P: int) -> int:
    """Return the k of fewest bits: their number is convex in k, so the first minimum is it."""
    K = gaps.size
    k = min(MAX_K, max(0, (P // K).bit_length() - 2))

    def bits(k: int) -> int:
        return _quotients(gaps, k) + K * k

    size = bits(k)
    for step in (1, -1):
        while 0 <= k + step <= MAX_K and (other := bits(k + step)) < size:
            k, size = k + step, other
    return k


def _quotients(gaps: np.ndarray, k: int) -> int:
    """Return the sum of gap >> k."""
    shift = gaps.dtype.type(k)
    return sum(int((gaps[part] >> shift).sum(dtype=np.int64)) for part in parts(gaps.size))


def _unary(gaps: np.ndarray, k: int) -> np.ndarray:
    """Return the unary stream, one bool per bit: gap >> k zeros and a one, for every gap."""
    bits_U, end = np.zeros(gaps.size + _quotients(gaps, k), dtype=np.bool_), -1
    for part in parts(gaps.size):
        ends = np.cumsum((gaps[part] >> gaps.dtype.type(k)).astype(np.int64) + 1) + end
        bits_U[ends] = True
        end = int(ends[-1])
    return bits_U


def _rice_sections(quotients: np.ndarray, gaps: np.ndarray, k: int) -> np.ndarray:
    """Return the quotient bytes followed by the packed k low bits of every gap, lowest first."""
    data = np.empty(quotients.size + bitmap_bytes(gaps.size * k), dtype=np.uint8)
    data[: quotients.size] = quotients
    for part in parts(gaps.size if k else 0, 8):
        low = np.empty((part.stop - part.start, k), dtype=np.uint8)
        for bit in range(k):
            low[:, bit] = (gaps[part] >> gaps.dtype.type(bit)).astype(np.uint8) & 1
        packed = np.packbits(low, bitorder="little")
        data[quotients.size + part.start * k // 8 :][: packed.size] = packed
    return data


def _unpack_low(data: np.ndarray, part: slice, k: int) -> np.ndarray:
    """Return one part of the numbers of k bits each."""
    count = part.stop - part.start
    bits = np.unpackbits(data[part.start * k // 8 :], count=count * k, bitorder="little")
    low = np.zeros(count, dtype=np.uint32)
    rows = bits.reshape(count, k)
    for bit in range(k):
        low |= rows[:, bit].astype(np.uint32) << np.uint32(bit)
    return low


def _tight(data: np.ndarray, most_U: int) -> np.ndarray:
    """Return the bytes of a plain unary stream, which ends in a one within its last byte."""
    if data.size and data[-1] == 0:
        raise WireError("the unary stream ends in an empty byte; expected a one in it")
    return data


def _shorten(bits_U: np.ndarray) -> np.ndarray:
    """Return the shortened stream: N as 4 bytes, then all code bits 1 and 2, all 3, all 4."""
    N = -(-bits_U.size // 3)
    padded = np.zeros(3 * N, dtype=np.uint8)
    padded[: bits_U.size] = bits_U
    first, second, third = padded[0::3], padded[1::3], padded[2::3]
    groups = first | second << 1 | third << 2
    code_N, length_N = _CODE[groups], _LENGTH[groups]
    pairs = np.empty((N, 2), dtype=np.uint8)
    pairs[:, 0], pairs[:, 1] = code_N >> 3, code_N >> 2 & 1
    thirds = code_N[length_N >= 3] >> 1 & 1
    fourths = code_N[length_N == 4] & 1
    packed = np.packbits(np.concatenate([pairs.ravel(), thirds, fourths]), bitorder="little")
    return np.concatenate([np.array([N], dtype="<u4").view(np.uint8), packed])


def _lengthen(data: np.ndarray, most_U: int) -> np.ndarray:
    """Return the bytes of the unary stream of a shortened one, checked before memory is taken."""
    if data.size < 4:
        raise WireError(f"shortened stream has {data.size} bytes; expected at least 4")
    N = int.from_bytes(data[:4].tobytes(), "little")
    if not 0 < N <= -(-most_U // 3) or data.size - 4 > bitmap_bytes(4 * N):
        raise WireError(
            f"shortened stream of {data.size} bytes says {N} groups; "
            f"expected 1 to {-(-most_U // 3)} of at most 4 bits"
        )
    bits = np.unpackbits(data[4:], bitorder="little")
    if bits.size < 2 * N:
        raise WireError(f"shortened stream has {bits.size} bits; {N} groups need {2 * N} or more")
    code_N = bits[0 : 2 * N : 2] << 3 | bits[1 : 2 * N : 2] << 2
    taken = 2 * N
    # Only groups whose code so far is `lowest` or above have a further bit.
    for lowest, shift in ((0b0100, 1), (0b1110, 0)):
        longer_N = code_N >= lowest
        start, taken = taken, taken + int(np.count_nonzero(longer_N))
        if taken > bits.size:
            raise WireError(f"shortened stream ends after {bits.size} bits of {taken} or more")
        code_N[longer_N] |= bits[start:taken] << shift
    if data.size - 4 != bitmap_bytes(taken) or bits[taken:].any():
        raise WireError(f"bytes or set padding bits follow the {taken} bits of a shortened stream")
    groups_N = _GROUP[code_N]
    if groups_N[-1] == 0:
        raise WireError("the shortened stream ends in an empty group; expected a one in it")
    bits_U = np.empty((N, 3), dtype=np.uint8)
    for bit in range(3):
        bits_U[:, bit] = groups_N >> bit & 1
    return np.packbits(bits_U.ravel(), bitorder="little")
