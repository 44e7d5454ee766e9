"""The run-config: every mistake at once and in words, and defaults in one place only."""

import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.config import RunConfig, automatic, cross_check, describe, keys_toml, read_recipe
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.settings import flatten
from fedllm_app.server.methods import STRATEGIES

ROOT = Path(__file__).parents[1]
DEVICES = {"data.train": "node", "data.labels": "2", "model.source": "org/model"}
IMAGES = {"task.name": "image-classification", "data.train": "org/set", "model.source": "org/vit"}


def problems(**given):
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(given)
    return str(caught.value).splitlines()


def test_pyproject_holds_every_key_with_its_default_and_meaning():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert keys_toml().strip() in text
    table = tomllib.loads(text)["tool"]["flwr"]["app"]["config"]
    assert flatten(table) == RunConfig().flat()
    # Flower takes scalars only, and types decide what `k=v` may replace.
    for key, value in RunConfig().flat().items():
        assert type(flatten(table)[key]) is type(value)


def test_defaults_are_legal():
    assert RunConfig.parse({}) == RunConfig()
    assert RunConfig.parse(RunConfig().flat()) == RunConfig()


@pytest.mark.parametrize("key", RunConfig().flat())
def test_every_key_says_what_it_means_in_a_sentence(key):
    assert describe(key).endswith(".")
    assert "\n" not in describe(key)


# Key and value, and what the message must hold beside both.
WRONG = [
    ("strategy.d-up", 1.5, "less than or equal to 1"),
    ("strategy.d-up", 1.5, "0.25 keeps a quarter"),
    ("strategy.d-down", 0, "greater than 0"),
    ("run.seed", True, "integer"),
    ("run.seed", -1, "greater than or equal to 0"),
    ("run.rounds", 2.0, "integer"),
    ("run.rounds", "40", "integer"),
    ("client.lr", "0.1", "number"),
    ("client.lr", True, "number"),
    ("client.lr", math.nan, "finite"),
    ("round.timeout-s", math.inf, "finite"),
    ("round.clients", 2.5, "a whole number of 1 or more, or a share between 0 and 1"),
    ("round.clients", True, "a number of 1 or more, or a share between 0 and 1"),
    ("round.clip", "none", "'auto', 'off', or a number of 0 (off) or more"),
    ("round.clip", -1.0, "'auto', 'off', or a number of 0 (off) or more"),
    ("round.clip", "nan", "'auto', 'off', or a number of 0 (off) or more"),
    ("round.clip-factor", 0.5, "greater than or equal to 1"),
    ("round.aggregate", "krum", "'mean', 'trimmed-mean' or 'median'"),
    ("round.trim", 0.5, "less than 0.5"),
    ("model.dropout", 1, "boolean"),
    ("model.dropout", "true", "boolean"),
    ("lora.targets", 3, "string"),
    ("wire.block", 100, "power of two"),
    ("run.name", "../elsewhere", "letters"),
    ("run.name", "a/b", "letters"),
    ("server.optimizer", "lion", "one of adam, adamw, sgd, adagrad, delayed-nesterov, fedadam,"),
    ("wire.up-values", "fp8", "'fp32', 'fp16', 'bf16', 'int8', 'int4', 'q4', 'q3', 'q2', 'u2'"),
    ("client.optimizer", "adam", "'sgd' or 'adamw'"),
    ("model.train", "all", "'lora', 'head' or 'full'"),
    ("data.train", "", "at least 1 character"),
    ("server.weight-decay", -0.5, "0 or more, or -1 (automatic)"),
    ("network.preset", "5g", "'thesis', 'thesis-1x', 'thesis-4x' or 'thesis-16x'"),
    ("network.up-mbps", -1.0, "greater than or equal to 0"),
    ("network.latency-ms", -1.0, "greater than or equal to 0"),
    ("network.spread", 4.0, "less than or equal to 3"),
]


@pytest.mark.parametrize(("key", "value", "expected"), WRONG)
def test_one_mistake_is_one_line_with_key_value_and_what_is_legal(key, value, expected):
    (line,) = problems(**{key: value})
    assert line.startswith(f"{key} is {value!r}; expected ")
    assert expected in line
    # What may be of one's own is looked up by name; every other key says what it means.
    assert line.endswith(describe(key)) or "MODULE:NAME of your own" in line


def test_all_mistakes_at_once():
    lines = problems(
        **{
            "strategy.d-up": 1.5,
            "run.seed": True,
            "strategy.dup": 1,
            "federation.name": "x",
            "server.optimizer": "lion",
            "round.clients": 30,
            "run.home": "here",
        }
    )
    starts = {line.split(" ")[0].rstrip(":;") for line in lines}
    assert starts == {
        "strategy.d-up", "run.seed", "strategy.dup", "federation.name", "server.optimizer",
        "round.clients", "run.home",
    }  # fmt: skip
    assert len(lines) == 7


def test_unknown_keys_and_namespaces_list_the_known():
    (key,) = problems(**{"strategy.sparsity": 0.5})
    assert key.startswith("strategy.sparsity is 0.5: unknown key; strategy has name, d-down, d-up,")
    (namespace,) = problems(**{"optimiser.lr": 0.5})
    assert namespace.startswith(
        "optimiser.lr is 0.5: unknown namespace; expected one of ['client', "
    )
    (bare,) = problems(seed=3)
    assert bare.startswith("seed is 3: unknown namespace")


def test_a_whole_number_is_a_float():
    config = RunConfig.parse({"client.lr": 1, "lora.alpha": 32})
    assert config.client.lr == 1.0
    assert type(config.lora.alpha) is float


# What must be refused together, and a change that makes it legal.
AT_ODDS = {
    "an unknown method": (
        {"strategy.name": "flos"},
        f"strategy.name is 'flos'; expected one of {', '.join(sorted(STRATEGIES))}",
        {"strategy.name": "floss"},
    ),
    "fedavg with adam": (
        {"strategy.name": "fedavg", "server.optimizer": "adam"},
        "server.optimizer is 'adam', but strategy.name = 'fedavg' is defined with 'sgd'",
        {"server.optimizer": "sgd"},
    ),
    "nesterov of adam": (
        {"server.nesterov": True, "server.momentum": 0.9},
        "server.nesterov is True with server.optimizer = 'adam'",
        {"strategy.name": "fedavg"},
    ),
    "nesterov without momentum": (
        {"server.nesterov": True, "server.optimizer": "sgd"},
        "server.momentum = 0.0; expected 'sgd' and a momentum above 0",
        {"server.momentum": 0.9},
    ),
    "diloco with adam": (
        {"strategy.name": "diloco", "server.optimizer": "adam"},
        "server.optimizer is 'adam', but strategy.name = 'diloco' is defined with 'sgd'",
        {"server.optimizer": "delayed-nesterov"},
    ),
    "diloco without momentum": (
        {"strategy.name": "diloco", "server.momentum": 0},
        "server.nesterov is True with server.optimizer = 'sgd' and server.momentum = 0.0",
        {"strategy.name": "photon"},
    ),
    "a decay of what is not kept": (
        {"strategy.feedback-decay": 0.9, "run.name": "x"},
        "strategy.feedback-decay is 0.9 with strategy.error-feedback = False, which keeps nothing",
        {"strategy.error-feedback": True},
    ),
    "a decay of what no upload leaves out": (
        {"strategy.name": "dense", "strategy.feedback-decay": 0.9},
        "strategy.feedback-decay is 0.9, which strategy.name = 'dense' does not read",
        {"strategy.name": "sparse-diloco", "run.name": "x"},
    ),
    "a residual in a run without a name": (
        {"strategy.name": "sparse-diloco"},
        "strategy.feedback-decay is 0.95 with run.name = ''; expected a name",
        {"strategy.feedback-decay": 0.0},
    ),
    "fragments in a run without a name": (
        {"strategy.name": "streaming-diloco"},
        "strategy.fragments is 4 with run.name = ''; expected a name",
        {"run.name": "x"},
    ),
    "more replies than clients": (
        {"round.min-replies": 6},
        "round.min-replies is 6; expected at most round.clients = 5",
        {"round.clients": 6},
    ),
    "a median of weights": (
        {"strategy.name": "fedavg", "round.aggregate": "median"},
        "round.aggregate is 'median', where all replies count alike, with round.weights = "
        "'examples'",
        {"round.weights": "uniform"},
    ),
    "a trimmed mean that trims nobody": (
        {"round.aggregate": "trimmed-mean", "round.trim": 0.1, "strategy.d-up": 1.0},
        "leaves out nobody of round.clients = 5 with round.trim = 0.1",
        {"round.clients": 10},
    ),
    "a median of two": (
        {"round.aggregate": "median", "round.clients": 2, "strategy.name": "dense"},
        "leaves out nobody of round.clients = 2",
        {"round.clients": 3},
    ),
    "a median of what few clients send": (
        {"round.aggregate": "median", "round.clients": 10},
        "0.25 of the coordinates, and what is not sent counts as a zero",
        {"strategy.mean": "senders"},
    ),
    "a larger cohort than there are clients": (
        {"partition.clients": 4},
        "round.clients is 5; expected at most partition.clients = 4",
        {"partition.name": "natural"},
    ),
    "a metric of another task": (
        {"round.target-metric": "perplexity"},
        "round.target-metric is 'perplexity'; expected one of ('accuracy', ",
        {"task.name": "next-token"},
    ),
    "dirichlet without labels": (
        {"task.name": "next-token", "partition.name": "dirichlet", "partition.by": "label"},
        "partition.by is 'label', which needs labels",
        {"task.name": "sequence-classification"},
    ),
    "a head that does not exist": (
        {"task.name": "next-token", "model.train": "head"},
        "model.train is 'head'; task.name 'next-token' has no head",
        {"model.train": "full"},
    ),
    "images from text": (
        IMAGES | {"data.train": "embedded"},
        "data.train is 'embedded', which is text",
        {"data.train": "org/set"},
    ),
    "images on a text model": (
        IMAGES | {"model.source": "embedded"},
        "model.source is 'embedded', which is text",
        {"model.source": "org/vit"},
    ),
    "devices without a label set": (
        DEVICES | {"data.labels": ""},
        "data.labels is '' with data.train = 'node'",
        {"data.labels": "no,yes"},
    ),
    "the demonstration on devices": (
        DEVICES | {"model.source": "embedded"},
        "model.source is 'embedded', which is for simulation only",
        {"model.source": "/models/x"},
    ),
    "tiers for a method without tiers": (
        {"strategy.tier-densities": "1/4,1"},
        "strategy.tier-densities is '1/4,1', which strategy.name = 'floss' does not read; "
        "expected '', or one of floss-tiers",
        {"strategy.name": "floss-tiers"},
    ),
    "a mean over senders where all send alike": (
        {"strategy.name": "fed-select", "strategy.mean": "senders"},
        "strategy.mean is 'senders', which strategy.name = 'fed-select' does not read",
        {"strategy.name": "floss"},
    ),
    "error feedback of an upload that is not sparse": (
        {"strategy.name": "dense", "strategy.error-feedback": True, "run.name": "x"},
        "strategy.error-feedback is True, which strategy.name = 'dense' does not read",
        {"strategy.name": "floss-tiers"},
    ),
    "error feedback in a run without a name": (
        {"strategy.error-feedback": True},
        "strategy.error-feedback is True with run.name = ''; expected a name",
        {"run.name": "x"},
    ),
    "a rank above the bank's": (
        {"strategy.name": "hetlora", "lora.rank": 8},
        "strategy.tier-ranks is '1,4,16'; expected ranks of at most that of the bank, "
        "lora.rank = 8",
        {"strategy.tier-ranks": "1,8"},
    ),
    "adapters where there are none": (
        {"strategy.name": "ffa-lora", "model.train": "full"},
        "model.train is 'full'; strategy.name = 'ffa-lora' needs 'lora'",
        {"model.train": "lora"},
    ),
    "a whole head of a whole model": (
        {"strategy.head": "whole", "model.train": "full"},
        "strategy.head is 'whole'; expected 'competes' with model.train = 'full'",
        {"model.train": "lora"},
    ),
    "a whole head where there is none": (
        {"strategy.head": "whole", "task.name": "next-token"},
        "strategy.head is 'whole'; task.name 'next-token' has no head of its own",
        {"task.name": "sequence-classification"},
    ),
    "error feedback of what leaves nothing out": (
        {"strategy.error-feedback": True, "strategy.d-up": 1, "run.name": "x"},
        "strategy.error-feedback is True with strategy.name = 'floss' sending all that it trains",
        {"wire.up-values": "int8"},
    ),
    "error feedback of tiers that leave nothing out": (
        {"strategy.name": "floss-tiers", "strategy.tier-densities": "1,1",
         "strategy.error-feedback": True, "run.name": "x"},
        "strategy.error-feedback is True with strategy.name = 'floss-tiers' sending all that",
        {"strategy.tier-densities": "1/4,1"},
    ),
    "error feedback of a mask that is sent whole": (
        {"strategy.name": "fed-select", "strategy.error-feedback": True, "run.name": "x"},
        "strategy.error-feedback is True with strategy.name = 'fed-select' sending all that",
        {"wire.up-values": "int8"},
    ),
    "an exponent without rounds": (
        {"strategy.name": "adapter-lth", "strategy.decay": 0, "run.rounds": 4},
        "strategy.decay is 0 (automatic) with strategy.density = 0.25 and run.rounds = 4; "
        "expected a density above 1 / 4 rounds",
        {"run.rounds": 5},
    ),
    "a relative home": (
        {"run.home": "runs"},
        "run.home is 'runs'; expected an absolute path",
        {"run.home": "/runs"},
    ),
    "a relative file": (
        {"data.train": "rows.jsonl"},
        "data.train is 'rows.jsonl'; expected an absolute path",
        {"data.train": "/rows.jsonl"},
    ),
    "a relative packed file": (
        {"data.train": "rows.tsv.gz"},
        "data.train is 'rows.tsv.gz'; expected an absolute path",
        {"data.train": "/rows.tsv.gz"},
    ),
    "an encoding that is none": (
        {"data.encoding": "utf-9"},
        "data.encoding is 'utf-9', which Python does not know",
        {"data.encoding": "latin-1"},
    ),
    "a delimiter of two characters": (
        {"data.delimiter": "||"},
        "data.delimiter is '||'; expected one character",
        {"data.delimiter": "tab"},
    ),
    "places without names": (
        {"data.label-numbers": "positions"},
        "data.label-numbers is 'positions' with data.labels = ''",
        {"data.labels": "no,yes"},
    ),
    "a label twice": (
        {"data.labels": "a,a"},
        "data.labels is 'a,a'; expected a count, or two or more different names",
        {"data.labels": "a,b"},
    ),
    "one split for both": (
        {"data.train": "/rows", "data.test-split": "train"},
        "data.test-split is 'train', which is data.train-split",
        {"data.test": "/other"},
    ),
    "a relative folder": (
        {"data.test": "./rows"},
        "data.test is './rows'; expected an absolute path",
        {"data.test": "org/rows"},
    ),
    "somebody's home": (
        {"model.source": "~/x.gguf"},
        "model.source is '~/x.gguf'; expected an absolute path",
        {"model.source": "/x.gguf"},
    ),
    "an upload without a download": (
        {"network.up-mbps": 20.0},
        "network.down-mbps is 0 with network.up-mbps = 20; expected Mbps of both",
        {"network.down-mbps": 200.0},
    ),
    "Mbps beside a preset": (
        {"network.preset": "thesis", "network.up-mbps": 50.0},
        "network.up-mbps is 50 beside network.preset = 'thesis', which has 20",
        {"network.preset": "", "network.down-mbps": 200.0},
    ),
    "latency without a network": (
        {"network.latency-ms": 30.0},
        "network.latency-ms is 30.0 and there is no network; set network.preset",
        {"network.preset": "thesis"},
    ),
    "a spread without a network": (
        {"network.spread": 0.5},
        "network.spread is 0.5 and there is no network",
        {"network.preset": "thesis-4x"},
    ),
    "a file of links without those of all others": (
        {"network.file": "/links.csv"},
        "network.file is '/links.csv' and there is no network",
        {"network.down-mbps": 36.0, "network.up-mbps": 11.0},
    ),
    "a relative file of links": (
        {"network.preset": "thesis", "network.file": "links"},
        "network.file is 'links'; expected an absolute path",
        {"network.file": "/links"},
    ),
    "a budget of a clock that does not run": (
        {"round.max-simulated-s": 60.0},
        "round.max-simulated-s is 60 and no clock runs; set network.preset",
        {"network.preset": "thesis-16x"},
    ),
    "a relative tokenizer": (
        {"model.tokenizer": "../tok"},
        "model.tokenizer is '../tok'; expected an absolute path",
        {"model.tokenizer": "/tok"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", AT_ODDS)
def test_keys_at_odds(case):
    given, message, cure = AT_ODDS[case]
    (line,) = problems(**given)
    assert message in line
    RunConfig.parse(given | cure)


def test_a_cross_check_does_not_repeat_what_is_wrong_by_itself():
    (line,) = problems(**{"round.clients": 0, "round.min-replies": 3})
    assert line.startswith("round.clients is 0; expected a whole number of 1 or more, or a share")


def test_no_cross_check_complains_about_the_defaults():
    assert list(cross_check(RunConfig())) == []


def test_the_summary_says_what_automatic_became():
    config = RunConfig.parse({"strategy.name": "fedavg", "run.seed": 3, "model.source": "org/m"})
    text = config.summary()
    assert "├── optimizer = 'sgd' (automatic, was '')" in text
    assert "├── lr = 1.0 (automatic, was 0.0)" in text
    assert "├── weight-decay = 0.0 (automatic, was -1.0)" in text
    assert "├── tokenizer = '' (automatic: org/m)" in text
    assert f"├── home = '' (automatic: {Path.home() / '.fedllm'})" in text
    assert "├── target-metric = '' (automatic: accuracy)" in text
    assert "├── threads = 0 (automatic: the CPUs it was given)" in text
    assert "├── seed = 3\n" in text
    # Every key of every namespace is there, once.
    assert text.count("│   ├── ") == len(RunConfig().flat())
    assert [line[4:] for line in text.splitlines() if line.startswith("├──")] == list(
        RunConfig.model_fields
    )


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"strategy.name": "fed-select", "strategy.d-up": 1 / 16}, "strategy.d-up = 0.0625"),
        ({"strategy.name": "adapter-lth", "strategy.density": 0.5}, "strategy.density = 0.5"),
        ({"strategy.name": "adapter-lth", "strategy.density": 0.5, "strategy.decay": 0}, ""),
        ({"strategy.d-up": 1 / 16}, ""),
        ({"strategy.name": "dense"}, ""),
    ],
)
def test_the_summary_ends_with_what_the_method_does_not_read(keys, told):
    config = RunConfig.parse(keys)
    end = config.summary().splitlines()[-1]
    expected = f"Not read by {config.strategy.name}: {told}"
    assert end == expected if told else not end.startswith("Not read")


def test_the_summary_shows_what_a_network_preset_means():
    text = RunConfig.parse({"network.preset": "thesis-16x"}).summary()
    assert "├── preset = 'thesis-16x'\n" in text
    assert "├── down-mbps = 200.0 (automatic, was 0.0)" in text
    assert "├── up-mbps = 12.5 (automatic, was 0.0)" in text
    assert "├── up-mbps = 0.0 (automatic: no limit known, no simulated" in RunConfig().summary()


def test_the_configuration_that_a_run_keeps_can_be_read_again():
    resolved = RunConfig.parse({"network.preset": "thesis-4x"}).resolved()
    assert RunConfig.parse(flatten(tomllib.loads(resolved.toml()))) == resolved


def test_the_summary_shows_the_name_that_the_run_was_given():
    config = RunConfig()
    named = config.resolved().model_copy(
        update={"run": config.run.model_copy(update={"name": "floss-1"})}
    )
    assert "├── name = 'floss-1' (automatic, was '')" in config.summary(named)


def test_automatic_words_are_of_keys_that_exist():
    assert set(automatic(RunConfig.parse(IMAGES))) <= set(RunConfig().flat())


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), st.floats(1e-9, 1e9)
)
def test_a_run_config_file_there_and_back(text, number):
    given = {"data.text-column": text, "data.user-column": f'"{text}"\\', "client.lr": number}
    config = RunConfig.parse(given)
    assert RunConfig.parse(flatten(tomllib.loads(config.toml()))) == config


def test_resolving_twice_changes_nothing():
    config = RunConfig.parse({"server.optimizer": "adamw"}).resolved()
    assert config.server.weight_decay == 0.01
    assert config.resolved() == config


def test_a_recipe_that_is_no_toml(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[run\n")
    with pytest.raises(ConfigError, match=r"r.toml is not a run-config"):
        read_recipe(path)
    with pytest.raises(ConfigError, match=r"none.toml is not a run-config"):
        read_recipe(tmp_path / "none.toml")


def test_a_recipe_is_flattened(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('strategy.name = "dense"\n[client]\nlr = 0.5\n')
    assert read_recipe(path) == {"strategy.name": "dense", "client.lr": 0.5}


def test_what_a_strategy_leaves_automatic():
    def resolved(**strategy):
        pairs = {f"strategy.{k.replace('_', '-')}": v for k, v in strategy.items()}
        return RunConfig.parse({"run.rounds": 200} | pairs).resolved().strategy

    assert resolved(name="floss").mean == "cohort"
    assert resolved(name="hetlora").mean == "senders"
    assert resolved(name="hetlora", mean="cohort").mean == "cohort"
    # The thesis: 0.98 over 200 rounds averages 0.246.
    assert resolved(name="adapter-lth").decay == 0.98
    assert resolved(name="adapter-lth", decay=0, density=0.2455).decay == pytest.approx(
        0.98, abs=1e-4
    )
    # What a method does not read stays as it is, so that another may be put in its place.
    assert resolved(name="dense", d_up=0.1).mean == ""


@pytest.mark.parametrize("text", ["1/4,2", "0", "a", "1/0", "1/4,,1"])
def test_tier_densities_are_fractions(text):
    (problem,) = problems(**{"strategy.name": "floss-tiers", "strategy.tier-densities": text})
    assert problem.startswith(f"strategy.tier-densities is {text!r}; expected fractions in (0, 1]")


@pytest.mark.parametrize("text", ["0,1", "1.5", "-1", "one"])
def test_tier_ranks_are_whole_numbers(text):
    (problem,) = problems(**{"strategy.name": "hetlora", "strategy.tier-ranks": text})
    assert problem.startswith(f"strategy.tier-ranks is {text!r}; expected whole numbers from 1")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("task.name", "translation", "expected one of image-classification, instruction"),
        ("task.name", "json:dumps", "which is a function; expected one of image-classification"),
        (
            "partition.name",
            "dirichlect",
            "expected one of dirichlet, iid, mixture, natural, or MODU",
        ),
        ("partition.name", "json:nothing", "which cannot be imported: AttributeError"),
        ("data.train", "json:nothing", "which cannot be imported: AttributeError"),
        ("data.test", "gone:rows", "which cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_name_of_your_own_that_is_none_is_one_line(key, value, expected):
    (line,) = problems(**{key: value})
    assert line.startswith(f"{key} is {value!r}")
    assert expected in line


def test_a_device_imports_nothing_to_know_how_rows_are_dealt_out_or_measured():
    keys = {"data.train": "node", "data.labels": "2", "model.source": "some/model"}
    RunConfig.parse(keys | {"data.test": "gone:rows", "partition.name": "gone:law"})
