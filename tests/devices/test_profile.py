"""Profiles of devices: those of the package are whole, and a broken one is told by its field."""

import pytest

from fedllm_app.core.errors import ConfigError
from fedllm_app.devices.profile import KNOWN, UNITS, read_profile, read_profiles

GOOD = "\n".join(
    f'[{name}]\nvalue = {0.5 if unit == "share" else 2}\nunit = "{unit}"\n'
    'kind = "assumed"\nsource = "us"\n'
    for name, (unit, _) in UNITS.items()
)


def test_every_figure_of_the_package_says_where_it_is_from():
    profiles = read_profiles()
    assert {"phone", "wearable", "embedded", "laptop", "pc", "server"} <= profiles.keys()
    for profile in profiles.values():
        for figure in profile.figures.values():
            assert figure.source
            assert figure.kind in ("measured", "specified", "assumed")
    assert profiles["phone"]["flops"] == 3.2e9
    assert all(path.stem == read_profile(path).name for path in KNOWN.glob("*.toml"))


def test_a_profile_of_ones_own_takes_the_place_of_one_of_its_name(tmp_path):
    file = tmp_path / "phone.toml"
    file.write_text('name = "phone"\nabout = "mine"\n' + GOOD)
    assert read_profiles([file])["phone"]["up"] == 2
    assert read_profiles()["phone"]["up"] == 11.22


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('unit = "FLOP/s"', 'unit = "GFLOP/s"', "flops.unit is 'GFLOP/s'; expected 'FLOP/s'"),
        ("[flops]\nvalue = 2", "[flops]\nvalue = 0", "flops.value is 0; expected a number, above"),
        ("[memory]\nvalue = 2", "[memory]\nvalue = nan", "memory.value is nan"),
        ("value = 0.5", "value = 1.5", "available.value is 1.5; expected a number, above 0, at"),
        ("[up]", "[uplink]", "[up] is missing; expected value, unit = 'Mbps'"),
        ("[up]", "[uplink]", "uplink is unknown"),
        ('kind = "assumed"', 'kind = "guess"', "flops.kind is 'guess'; expected one of measured,"),
        ('source = "us"', "", "flops.source is None; expected where the figure is from"),
    ],
)  # fmt: skip
def test_a_broken_profile_is_told_by_its_field(tmp_path, old, new, told):
    file = tmp_path / "board.toml"
    assert old in GOOD
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        read_profile(file)
    assert f"device profile {file}: " in str(error.value)
    assert told in str(error.value)


def test_what_is_no_toml_is_refused(tmp_path):
    file = tmp_path / "board.toml"
    file.write_text("flops = ")
    with pytest.raises(ConfigError, match="expected TOML"):
        read_profile(file)
