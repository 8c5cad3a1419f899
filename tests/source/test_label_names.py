"""Label names: the shipped ones against the public descriptions, and files of a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from spine_etl.errors import LabelNamesInvalid
from spine_etl.recipe import Recipe, load_recipe
from spine_etl.source.label_names import LabelNames, load_label_names, looks_like_level

QUICK = load_recipe("quick")
SHIPPED = ("rsna", "verse", "totalsegmentator-v1", "totalsegmentator-v2", "totalsegmentator-v3")


def write(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("rsna", {"C1": 1, "C7": 7, "T1": 8, "T12": 19}),
        # https://osf.io/4skx2/wiki
        ("verse", {"C1": 1, "C7": 7, "T1": 8, "T12": 19, "L1": 20, "L6": 25, "sacrum": 26, "coccyx": 27,
                   "T13": 28}),
        # The class lists in the README of the releases 1.5.7 and 2.x, and improvements_in_v3.md.
        ("totalsegmentator-v1", {"L5": 18, "L1": 22, "T12": 23, "T1": 34, "C7": 35, "C1": 41}),
        ("totalsegmentator-v2", {"sacrum": 25, "S1": 26, "L5": 27, "T12": 32, "T1": 43, "C7": 44, "C1": 50}),
        ("totalsegmentator-v3", {"sacrum": 25, "L6": 26, "L5": 27, "T12": 32, "T1": 43, "C7": 44, "C1": 50}),
    ],
)  # fmt: skip
def test_shipped_numbers_are_the_published_ones(name: str, numbers: dict[str, int]) -> None:
    names = load_label_names(name)
    names.check(QUICK)
    assert names.name == name
    assert names.missing_levels(QUICK) == []
    assert numbers.items() <= names.labels.items()
    assert set(names.labels.values()) == set(
        range(min(names.labels.values()), max(names.labels.values()) + 1)
    )


def test_totalsegmentator_without_a_version_is_version_2() -> None:
    assert load_label_names("totalsegmentator").name == "totalsegmentator-v2"


def test_shipped_names_have_different_digests() -> None:
    assert len({load_label_names(name).digest for name in SHIPPED}) == len(SHIPPED)


@pytest.mark.parametrize(("version", "classes"), [(1, 104), (2, 117), (3, 117)])
def test_totalsegmentator_names_or_ignores_exactly_its_own_classes(version: int, classes: int) -> None:
    names = load_label_names(f"totalsegmentator-v{version}")
    covered = [n for n in range(1, 256) if n in names.labels.values() or names.ignores_number(n)]
    assert covered == list(range(1, classes + 1))
    assert names.ignores_class("liver")


def test_class_names_are_found_in_any_case() -> None:
    names = load_label_names("verse")
    for text in ("vertebrae_C1", "Vertebra_c1", "C1", "c1 vertebra", " C1 "):
        assert names.level_of(text) == "C1"
    assert names.level_of("Sacrum") == "sacrum"
    for text in ("", "C8", "C1_C2", "disc_C1", "vertebrae", "rib_left_1", "C11", "xC1"):
        assert names.level_of(text) is None


def test_own_file(tmp_path: Path) -> None:
    text = 'name = "ours"\nignore = [1, "30-40"]\nclass_names = ["bone_{level}"]\n[labels]\nC1 = 3\nT1 = 9\n'
    names = load_label_names(write(tmp_path, text))
    assert (names.name, names.labels) == ("ours", {"C1": 3, "T1": 9})
    assert [n for n in range(1, 256) if names.ignores_number(n)] == [1, *range(30, 41)]
    assert names.level_of("bone_C1") == "C1"
    assert names.level_of("vertebrae_C1") is None
    assert names.missing_levels(QUICK) == ["C2", "C3", "C4", "C5", "C6", "C7"]
    assert not names.ignores_class("liver")


def test_all_others_are_ignored_if_the_file_says_so(tmp_path: Path) -> None:
    names = load_label_names(write(tmp_path, 'name = "ours"\nignore = "all others"\n[labels]\nC1 = 3\n'))
    assert names.ignores_number(255)
    assert names.ignores_class("liver")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "name"),
        ('name = "a"\n', "labels"),
        ('name = "a"\n[labels]\n', "labels"),
        ('name = "a"\n[labels]\nC1 = 0\n', "labels.C1"),
        ('name = "a"\n[labels]\nC1 = 256\n', "labels.C1"),
        ('name = "a"\n[labels]\nC1 = 1\nC2 = 1\n', "number twice"),
        ('name = "a"\n[labels]\nC1 = 1\nc1 = 2\n', "name twice"),
        ('name = "a"\nignore = [1]\n[labels]\nC1 = 1\n', "are labels and ignored"),
        ('name = "a"\nignore = ["5-3"]\n[labels]\nC1 = 1\n', "neither a number nor a range"),
        ('name = "a"\nignore = "others"\n[labels]\nC1 = 1\n', "all others"),
        ('name = "a"\nclass_names = ["vertebra"]\n[labels]\nC1 = 1\n', "contains {level} once"),
        ('name = "a"\nlevels = 3\n[labels]\nC1 = 1\n', "levels"),
        ('name = "../a"\n[labels]\nC1 = 1\n', "name"),
        ("C1: 1\n", "not a TOML file"),
    ],
)
def test_invalid_file_names_the_fault(text: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(LabelNamesInvalid) as caught:
        load_label_names(write(tmp_path, text))
    assert fault in caught.value.reason


def test_unknown_names_list_the_shipped_ones() -> None:
    with pytest.raises(LabelNamesInvalid, match="no set of label names totalsegmentator-v9") as caught:
        load_label_names("totalsegmentator-v9")
    assert all(name in caught.value.action for name in SHIPPED)


def test_misspelt_level_is_refused() -> None:
    names = LabelNames(name="a", labels={"C1": 1, "Cl2": 2})
    with pytest.raises(LabelNamesInvalid, match="Cl2"):
        names.check(QUICK)


def test_names_without_any_level_of_the_recipe_are_refused() -> None:
    names = LabelNames(name="a", labels={"T1": 8, "L1": 20})
    with pytest.raises(LabelNamesInvalid, match="none of the levels"):
        names.check(QUICK)


def test_levels_of_the_recipe_may_have_names_of_their_own() -> None:
    recipe = Recipe.model_validate(QUICK.model_dump() | {"levels": {"atlas": 1}, "other_labels": {"axis": 2}})
    LabelNames(name="a", labels={"atlas": 50, "axis": 49, "C3": 48}).check(recipe)


def test_names_like_a_vertebra() -> None:
    assert all(map(looks_like_level, ("C1", "vert-C1", "seg_t12_x", "Th3")))
    assert not any(map(looks_like_level, ("liver", "rib_left_1", "ct", "kidney_cyst_left", "C8", "disc10")))
