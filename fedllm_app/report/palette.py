"""Colours of the page's figures, those of Okabe and Ito, and what stands for each in the dark."""

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, GREY, OLIVE = "#E69F00", "#56B4E9", "#8C8C8C", "#8F7500"
# What stands for a colour where the page is dark: at least 6 to 1 against it.
ON_DARK = {
    BLUE: "#4DA3F0", VERMILION: "#FF8A45", GREEN: "#2CCB9B", PURPLE: "#E9A3CB",
    ORANGE: "#F7BE3B", SKY: "#A3DCFF", GREY: "#ABB2BA", OLIVE: "#CBB13A",
}  # fmt: skip


def themed(colour: str) -> str:
    """Return a colour as the page knows it: a variable of its style, with the colour itself."""
    return f"var(--c{colour[1:].lower()}, {colour})"


def palette_css() -> str:
    """Return the colours as variables of a page, for light and for dark."""
    light, dark = (
        " ".join(f"--c{colour[1:].lower()}: {shown[colour]};" for colour in ON_DARK)
        for shown in ({c: c for c in ON_DARK}, ON_DARK)
    )
    return (
        f":root {{ {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )
