"""How near answers are to their references: exact match, and ROUGE-L (Lin 2004) of torchmetrics."""

from collections.abc import Sequence


def scores(said: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return exact-match and rouge-l, both the mean over answers, from 0 to 1.

    White space at the ends of an answer does not count. ROUGE-L is the F-measure over the words of
    the longest common subsequence, in lower case, without stemming.
    """
    if not said:
        return {}
    same = sum(a.strip() == b.strip() for a, b in zip(said, references, strict=True))
    return {
        "exact-match": same / len(said),
        "rouge-l": sum(rouge_l(said, references)) / len(said),
    }


def rouge_l(said: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return ROUGE-L of each answer."""
    from torchmetrics.functional.text.rouge import rouge_score

    return [
        float(rouge_score(a, b, rouge_keys="rougeL")["rougeL_fmeasure"])
        for a, b in zip(said, references, strict=True)
    ]
