"""Questions that are asked over many runs."""
