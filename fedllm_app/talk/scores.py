"""How near answers are to their references: exact match, and ROUGE-L (Lin 2004) of torchmetrics."""

from collections.abc import Sequence


def scores(
    said: Sequence[str], references: Sequence[str], each: Sequence[float] | None = None
) -> dict[str, float]:
    """Return exact-match and rouge-l, both the mean over answers, from 0 to 1.

    White space at the ends of an answer does not count.

    Parameters
    ----------
    each : `rouge_l` of the answers, where it is known already.
    """
    if not said:
        return {}
    each = rouge_l(said, references) if each is None else each
    same = sum(a.strip() == b.strip() for a, b in zip(said, references, strict=True))
    return {"exact-match": same / len(said), "rouge-l": sum(each) / len(said)}


def rouge_l(said: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return ROUGE-L of each answer.

    It is the F-measure over the words of the longest common subsequence, in lower case, without
    stemming.
    """
    from torchmetrics.functional.text.rouge import rouge_score

    return [
        float(rouge_score(a, b, rouge_keys="rougeL")["rougeL_fmeasure"])
        for a, b in zip(said, references, strict=True)
    ]
