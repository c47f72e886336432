"""The figures that come with Godwit, and what is said of a site's that cannot be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from godwit.catalogue.loading import SHIPPED, CatalogueFileError, load, read
from godwit_protocol.catalogue import GIB, Catalogue
from godwit_protocol.errors import InvalidInputError

TIME_SLICED = {
    "H100XM": "80:1/1 40:2/2 20:4/4 16:5/4 10:8/8 8:10/8 5:16/16 4:20/16",
    "H200X": "141:1/0 70:2/0 35:4/0 28:5/0 17:8/0 14:10/0 8:16/0 7:20/0 4:32/0",
    "A100DX": "80:1/1 40:2/2 20:4/4 16:5/4 10:8/8 8:10/8 4:20/16",
    "L40S": "48:1/1 24:2/2 16:3/2 12:4/4 8:6/4 6:8/8 4:12/8",
}
H100_MIG = {
    "1g.10gb": (19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 9.75, 16),
    "1g.10gb+me": (20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 9.75, 16),
    "1g.20gb": (15, 1, 2, (0, 2, 4, 6), 4, 19.62, 26),
    "2g.20gb": (14, 2, 2, (0, 2, 4), 3, 19.62, 32),
    "3g.40gb": (9, 3, 4, (0, 4), 2, 39.50, 60),
    "4g.40gb": (5, 4, 4, (0,), 1, 39.50, 64),
    "7g.80gb": (0, 7, 8, (0,), 1, 79.25, 132),
}


def test_every_model_of_the_design_is_there(shipped: Catalogue) -> None:
    expected = {"A100-40GB", "A100-80GB", "H100-80GB", "H100-NVL-94GB", "H200-141GB", "L40S-48GB"}
    assert set(shipped.models) == expected
    assert shipped.model("L40S-48GB").mig is None
    for model in shipped.models.values():
        sections = (model, model.mig, model.mig_backed, model.time_sliced)
        assert all(section.source for section in sections if section is not None)


def test_the_h100s_instances_are_those_of_the_table(shipped: Catalogue) -> None:
    mig = shipped.model("H100-80GB").mig
    assert mig is not None
    found = {
        item.name: (item.id, item.compute, item.memory, item.starts, item.most, item.gib, item.sms)
        for item in mig.profiles
    }
    assert found == H100_MIG


def test_all_models_with_mig_have_the_same_starts(shipped: Catalogue) -> None:
    tables = {
        tuple((item.id, item.compute, item.memory, item.starts, item.most)
              for item in model.mig.profiles)
        for model in shipped.models.values()
        if model.mig is not None
    }  # fmt: skip
    assert len(tables) == 1


@pytest.mark.parametrize("prefix", TIME_SLICED)
def test_the_time_sliced_maxima_are_those_of_the_table(prefix: str, shipped: Catalogue) -> None:
    section = next(
        model.time_sliced
        for model in shipped.models.values()
        if model.time_sliced and model.time_sliced.profiles[0].name.startswith(f"{prefix}-")
    )
    found = [f"{item.gib:g}:{item.equal_most}/{item.mixed_most}" for item in section.profiles]
    assert " ".join(found) == TIME_SLICED[prefix]


def test_a_profile_has_the_least_size_of_the_models_that_offer_it(shipped: Catalogue) -> None:
    """A machine's framebuffer must fit on each of them."""
    small = shipped.profile("1g.10gb")
    assert set(small.models) == {"A100-40GB", "A100-80GB", "H100-80GB"}
    assert small.framebuffer_bytes == int(9.5 * GIB)
    assert shipped.profile("H100XM-3-40C").framebuffer_bytes == int(39.5 * GIB)


def test_what_is_not_there_is_named_with_what_is(shipped: Catalogue) -> None:
    with pytest.raises(InvalidInputError, match="H999") as unknown:
        shipped.model("H999")
    assert "H100-80GB" in unknown.value.hint
    with pytest.raises(InvalidInputError, match="9g"):
        shipped.profile("9g.900gb")


def site_file(folder: Path, replacing: str, by: str) -> Path:
    text = (SHIPPED / "h100-80gb.toml").read_text()
    assert replacing in text
    file = folder / "site.toml"
    file.write_text(text.replace(replacing, by, 1))
    return file


@pytest.mark.parametrize(
    ("replacing", "by", "says", "names"),
    [
        ("memory_gib = 80", "memory_gib = ", "Invalid value", "memory_gib"),
        ("memory_gib = 80", "memory_gib = -1", "memory_gib: Expected `float` > 0", "memory_gib"),
        ("memory_gib = 80", 'memory_gib = "80"', "Expected `float`", "memory_gib"),
        ("memory_gib = 80", "memory_gb = 80", "unknown field `memory_gb`", "memory_gb"),
        ("memory_gib = 80\n", "", "required field `memory_gib`", ""),
        ("sms = 132\n", "sms = 132\nspeed = 1\n", "unknown field `speed`", "speed"),
        ("compute_slices = 7", "compute_slices = 3", "4g.40gb takes 4 of 3", '"4g.40gb"'),
        ("memory_slices = 8", "memory_slices = 0", "memory_slices: Expected", "memory_slices"),
        ("starts = [0, 4]", "starts = [0, 5]", "3g.40gb at 5 does not lie on 8", '"3g.40gb"'),
        ("starts = [0, 4]", "starts = [4, 0]", "do not ascend", '"3g.40gb"'),
        ("starts = [0, 4]", "starts = []", "starts: Expected `array`", '"3g.40gb"'),
        ("most = 2, gib = 39.50", "most = 3, gib = 39.50", "3 of 3g.40gb are 118.5", '"3g.40gb"'),
        ('"2g.20gb", id', '"1g.20gb", id', "1g.20gb is there twice", '"1g.20gb", id = 14'),
        ('instance = "4g.40gb"', 'instance = "4g.41gb"', "'4g.41gb', there is none", "4g.41gb"),
        ("mixed_most = 8 },", "mixed_most = 7 },", "16 slots are not 7 parts", "mixed_most = 7"),
        ("mixed_most = 2 },", "mixed_most = 4 },", "more fit mixed (4)", '"H100XM-40C"'),
        ("mixed_slots = 16\n", "", "mixed_slots is not given", '"H100XM-80C"'),
    ],
)
def test_an_error_says_file_line_and_reason(
    tmp_path: Path, replacing: str, by: str, says: str, names: str
) -> None:
    file = site_file(tmp_path, replacing, by)
    with pytest.raises(CatalogueFileError) as wrong:
        read(file)
    assert says in wrong.value.reason
    assert wrong.value.message.startswith(str(file))
    if names:
        assert names in file.read_text().splitlines()[wrong.value.line - 1]
        assert f":{wrong.value.line}: " in wrong.value.message


def test_a_site_adds_its_own_and_replaces_what_it_names_alike(tmp_path: Path) -> None:
    site_file(tmp_path, 'model = "H100-80GB"', 'model = "H100-96GB"')
    assert set(load(tmp_path).models) == {*load().models, "H100-96GB"}
    assert "H100-96GB" in load(tmp_path).profile("1g.10gb").models
    other = site_file(tmp_path, "sms = 132", "sms = 131")
    assert load(other).model("H100-80GB").sms == 131


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(CatalogueFileError, match=r"no \.toml file"):
        load(tmp_path)
    with pytest.raises(CatalogueFileError, match="cannot be read"):
        load(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(CatalogueFileError, match="cannot be read"):
        load(tmp_path / "binary.toml")


def test_the_documented_file_and_error_are_true(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "gpus.md").read_text()
    text = page.partition("```toml\n")[2].partition("```")[0]
    file = tmp_path / "quiet.toml"
    file.write_text(text)
    assert read(file).model == "H100-80GB-QUIET"
    file.write_text(text.replace("[0, 4]", "[0, 5]"))
    with pytest.raises(CatalogueFileError) as wrong:
        read(file)
    assert wrong.value.message.replace(str(tmp_path), "/etc/godwit") in page
