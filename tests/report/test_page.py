"""The page stands alone, shows what was measured, and renders whatever a run left behind."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.core.units import format_seconds
from fedllm_app.report.page import print_summary, summary_rows, write_comparison, write_report
from fedllm_app.report.run import read_run
from fedllm_app.run.metrics import JsonLines

Maker = Callable[..., Path]
HOSTILE = "<script>alert(1)</script>&\"'$x_{1}$"


class Page(HTMLParser):
    """Tags with attributes, and the visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def assert_stands_alone(path: Path) -> Page:
    page = Page(path)
    assert page.open == []
    assert page.count("script") == page.count("link") == page.count("img") == 0
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    text = path.read_text(encoding="utf-8")
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    return page


def test_a_run_has_its_numbers_plots_settings_and_versions(run_maker: Maker) -> None:
    folder = run_maker(rounds=20)
    page = assert_stands_alone(write_report(folder))
    assert page.count("svg") == 8
    totals = read_run(folder).totals
    less = f"{totals.dense_up_bytes / totals.up_bytes:.1f}\N{MULTIPLICATION SIGN}"
    plots = ("Accuracy by upload", "Upload per round", "Time per round", "Update norm")
    for words in (*plots, "Dropped replies", "learning-rate", "0.003", "numpy ", less):
        assert words in page.text


def test_seven_runs_share_a_page_with_the_target_of_dense(run_maker: Maker, tmp_path: Path) -> None:
    runs = [run_maker("dense", rounds=20, strategy="dense", d_down=1, d_up=1, final=0.5)]
    runs += [run_maker(f"up-{n}", rounds=20, d_up=1 / n, final=0.6) for n in (4, 16, 64)]
    runs += [run_maker(f"int8-{n}", rounds=20, d_up=1 / n, values="int8") for n in (4, 16, 64)]
    page = assert_stands_alone(write_comparison(runs, tmp_path / "out" / "compare.html"))
    assert page.count("svg") == 8
    assert "Bytes at equal accuracy" in page.text
    assert "strategy.d-up" in page.text and "0.015625" in page.text
    assert "dense, final" in page.text


def test_a_clock_has_a_figure_a_tile_and_a_line_in_the_terminal(run_maker: Maker) -> None:
    folder = run_maker(rounds=20, up_mbps=20.0)
    page = assert_stands_alone(write_report(folder))
    assert page.count("svg") == 9
    assert "Accuracy by simulated time" in page.text and "Accuracy by round" in page.text
    assert ("dl", {"class": "tiles", "style": "--tiles: 6"}) in page.tags
    total = format_seconds(float(read_run(folder).simulated_s or 0))
    assert f"Simulated {total}" in page.text
    assert dict(summary_rows(folder))["simulated time"] == total


def test_norms_cosines_and_tokens_are_drawn_where_a_run_has_them(
    run_maker: Maker, tmp_path: Path
) -> None:
    runs = [run_maker(name, rounds=20, dynamics=True) for name in ("a", "b")]
    page = assert_stands_alone(write_report(runs[0]))
    assert page.count("svg") == 12
    for words in (
        "Norms",
        "Agreement of clients",
        "Accuracy by tokens",
        "server's momentum",
        "Staleness",
    ):
        assert words in page.text
    both = assert_stands_alone(write_comparison([*runs, run_maker("c", rounds=9)], tmp_path / "c"))
    assert "Agreement of clients" in both.text and "Staleness" in both.text
    assert "Accuracy by tokens" not in both.text  # which one of them does not count


def test_simulated_seconds_below_every_figure_over_rounds(run_maker: Maker, tmp_path: Path) -> None:
    one, other = run_maker("a", rounds=20, up_mbps=200.0), run_maker("b", rounds=20, up_mbps=1.0)
    page = assert_stands_alone(write_report(one, "simulated"))
    assert page.count("svg") == 8
    text = one.joinpath("report.html").read_text("utf-8")
    # The metric, loss, norm, two of bytes and one of time; none is left over rounds.
    assert text.count(">simulated time so far<") == 6
    assert ">round<" not in text
    both = tmp_path / "compare.html"
    write_comparison([one, other], both, "simulated")
    assert both.read_text("utf-8").count(">simulated time so far, logarithmic<") == 3


def test_runs_without_a_clock_stand_beside_one_with_it(run_maker: Maker, tmp_path: Path) -> None:
    runs = [run_maker("with", rounds=10, up_mbps=20.0), run_maker("without", rounds=10)]
    page = assert_stands_alone(write_comparison(runs, tmp_path / "c.html"))
    assert "Simulated" in page.text and "Accuracy by simulated time" in page.text
    with pytest.raises(ConfigError, match=r"no clock ran in without; .* network.preset"):
        write_comparison(runs, tmp_path / "c.html", "simulated")
    with pytest.raises(ConfigError, match=r"--x is 'bytes'; expected one of rounds, simulated"):
        write_report(runs[0], "bytes")


@pytest.mark.parametrize("x", ["rounds", "simulated"])
@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_a_short_run_with_a_clock_renders(run_maker: Maker, rounds: int, x: str) -> None:
    assert_stands_alone(write_report(run_maker(rounds=rounds, up_mbps=20.0), x))


@pytest.mark.parametrize("rounds", [0, 1, 2])
@pytest.mark.parametrize("evaluate", [True, False])
def test_a_short_run_renders(run_maker: Maker, tmp_path: Path, rounds: int, evaluate: bool) -> None:
    folder = run_maker(rounds=rounds, evaluate=evaluate)
    page = assert_stands_alone(write_report(folder))
    assert ("Nothing was evaluated" in page.text) != evaluate
    assert_stands_alone(write_comparison([folder, folder], tmp_path / "compare.html"))


def test_a_long_run_is_drawn_in_steps_of_several_rounds(run_maker: Maker) -> None:
    page = write_report(run_maker(rounds=401, clients=1))
    assert "Each step is the mean of 3 rounds." in Page(page).text
    assert page.stat().st_size < 400_000


def test_a_folder_with_metrics_alone_renders_and_says_what_is_missing(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "run" / "metrics.jsonl")
    file.append({"round": 1, "clients": 0, "dropped": {"late": 2}, "train-loss": float("nan")})
    file.close()
    page = assert_stands_alone(write_report(tmp_path / "run"))
    assert page.count("svg") == 0
    for words in ("The ledger has no upload.", "No round was timed.", "no config.toml",
                  "No round has a training loss yet."):  # fmt: skip
        assert words in page.text


def test_dropped_replies_are_counted_by_reason_and_named(run_maker: Maker) -> None:
    folder = run_maker(rounds=40, client_prefix="phone-")
    run = read_run(folder)
    page = Page(write_report(folder))
    assert run.dropped["late"] == sum(run.refused.values()) > 0
    assert "Late" in page.text
    assert next(iter(run.refused)) in page.text


def test_hostile_names_stay_text(run_maker: Maker, tmp_path: Path) -> None:
    folder = run_maker("a&b<i>$_{2}$", rounds=40, client_prefix=HOSTILE, strategy=r"\"<b>")
    other = run_maker("_b", rounds=3, client_prefix=HOSTILE)
    for path in (write_report(folder), write_comparison([folder, other], tmp_path / "c.html")):
        page = assert_stands_alone(path)
        assert page.count("i") == page.count("b") == 0
        assert HOSTILE in page.text
        assert "a&b<i>$_{2}$" in page.text


def test_the_same_folder_gives_the_same_page(run_maker: Maker) -> None:
    folder = run_maker(rounds=5)
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_without_matplotlib_the_page_has_its_tables(
    run_maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedllm_app.report.plots.find_spec", lambda name: None)
    page = Page(write_report(run_maker(rounds=3)))
    assert page.count("svg") == 0
    assert "matplotlib is not installed" in page.text
    assert "Dense float32" in page.text


def test_the_summary_is_what_a_terminal_shows(
    run_maker: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_maker("run[red]", rounds=10)
    rows = dict(summary_rows(folder))
    assert rows["rounds"] == "10"
    assert rows["report"] == str(folder / "report.html")
    assert set(rows) >= {"accuracy", "bytes up", "bytes down", "times less than dense"}
    print_summary(folder)
    shown = capsys.readouterr().out
    assert "run[red]" in shown and rows["bytes up"] in shown


def test_a_folder_that_is_no_run_is_refused_and_its_neighbours_named(run_maker: Maker) -> None:
    folder = run_maker("mine", rounds=1)
    with pytest.raises(DataError, match=r"minne holds no metrics.jsonl.*runs beside it: mine"):
        write_report(folder.parent / "minne")
    with pytest.raises(ConfigError, match="at least one"):
        write_comparison([], folder / "c.html")
