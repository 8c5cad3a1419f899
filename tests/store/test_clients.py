"""Other zarr v3 clients pair each image with its labels, after refusals and updates, without this package."""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import xarray
import zarr

from tests.store.history import ROWS, SEEDS, write_history
from tests.store.tiny import voxels

CLIENTS = Path(__file__).parents[2] / ".make" / "clients"
"""Where ``make clients`` installs zarrita, and zarr-python 3.2 with its own interpreter."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clients") / "store"
    write_history(root)
    return root


def assert_pairs(studies: dict[str, tuple[int, Any]]) -> None:
    """Compare fracture of C1 and the image, by UID, with what was written."""
    assert sorted(studies) == sorted(uid for uid, _ in SEEDS.values())
    for uid, seed in SEEDS.values():
        fracture, image = studies[uid]
        assert fracture == seed % 2
        np.testing.assert_array_equal(image, voxels(seed)["image"])


def test_zarr_python(root: Path) -> None:
    store = zarr.open_group(root, mode="r")
    table: Any = store[store.attrs["spine_etl"]["latest"]["path"]]
    image: Any = store["image"]
    rows = np.flatnonzero(table["in_version"][...])
    assert rows.tolist() == list(SEEDS)
    assert_pairs({table["study_uid"][i]: (table["fracture"][i, 0], image[i]) for i in rows})


def test_rows_that_the_version_does_not_contain_are_empty(root: Path) -> None:
    store = zarr.open_group(root, mode="r")
    table: Any = store[store.attrs["spine_etl"]["latest"]["path"]]
    assert store["image"].shape[0] == ROWS
    for row in (1, 4):
        assert not table["in_version"][row]
        assert table["study_uid"][row] == ""
        assert not table["study_uid_ascii"][row].any()
        assert table["fracture"][row].tolist() == [-1, -1]
        assert (table["patient_overall"][row], table["fold"][row]) == (-1, -1)
        assert np.isnan(table["crop_origin_mm"][row]).all()


def test_tensorstore(root: Path) -> None:
    """tensorstore reads arrays, not groups, and has no type for text."""

    def read(name: str) -> Any:
        kvstore = {"driver": "file", "path": f"{root}/{name}/"}
        return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()

    path = json.loads((root / "zarr.json").read_text())["attributes"]["spine_etl"]["latest"]["path"]
    in_version, fracture, uids = (
        np.asarray(read(f"{path}/{name}").read().result())
        for name in ("in_version", "fracture", "study_uid_ascii")
    )
    image = read("image")
    assert_pairs(
        {
            uids[i].tobytes().rstrip(b"\0").decode(): (fracture[i, 0], image[i].read().result())
            for i in np.flatnonzero(in_version).tolist()
        }
    )


def assert_dataset_pairs(studies: xarray.Dataset) -> None:
    uids, fractures = studies.study_uid.to_numpy(), studies.fracture.sel(level="C1").to_numpy()
    pairs = zip(fractures.tolist(), studies.image.to_numpy(), strict=True)
    assert_pairs(dict(zip(map(str, uids), pairs, strict=True)))


def test_xarray_merges_arrays_and_table(root: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays = xarray.open_zarr(root)
        table = xarray.open_zarr(root, group=arrays.attrs["spine_etl"]["latest"]["path"])
    studies = xarray.merge(
        [arrays, table], combine_attrs="drop_conflicts", join="exact", compat="no_conflicts"
    )
    assert studies.sizes["row"] == ROWS
    assert_dataset_pairs(studies.isel(row=studies.in_version.to_numpy()))
    uneven = table.warnings.sel(warning="SLICES_UNEVEN").to_numpy()
    assert table.study_uid.to_numpy()[uneven > 0].tolist() == ["1.10"]
    names = table.mask_name.attrs["codes"]
    assert [names[code] for code in table.mask_name.to_numpy()[[0, 5]]] == ["", "of ten"]


def test_xarray_opens_the_whole_store_as_a_tree(root: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = xarray.open_datatree(root, engine="zarr")
    table = tree[tree.attrs["spine_etl"]["latest"]["path"]].to_dataset()
    assert table.sizes["row"] == tree["image"].sizes["row"] == ROWS
    assert tree["overview/image"].dims == ("row", "overview_z", "overview_y", "overview_x")
    for row, (_, seed) in SEEDS.items():
        np.testing.assert_array_equal(tree["overview/mask"][row], voxels(seed)["overview/mask"])
        np.testing.assert_array_equal(tree["mask"].sel(level="C2")[row], voxels(seed)["mask"][1])
    assert_dataset_pairs(
        table.assign(image=tree["image"]).isel(row=table.in_version.to_numpy()).drop_dims("box")
    )


def test_an_older_version_has_its_own_table(root: Path) -> None:
    commit = json.loads((root / "versions/1/zarr.json").read_text())["attributes"]
    table = xarray.open_zarr(root, group=commit["path"], consolidated=False)
    assert table.study_uid.to_numpy().tolist() == ["1.1", "1.2", "1.3", "1.4"]
    image = xarray.open_zarr(root).image.isel(row=table.row.to_numpy())
    np.testing.assert_array_equal(image[1], voxels(2)["image"])


ZARRITA = """
import * as zarr from "zarrita";
import { FileSystemStore } from "@zarrita/storage";
const root = zarr.root(new FileSystemStore(process.argv[2]));
const store = await zarr.open.v3(root, { kind: "group" });
const table = root.resolve(store.attrs.spine_etl.latest.path);
const read = async (at, selection) => zarr.get(await zarr.open.v3(at, { kind: "array" }), selection);
const [inVersion, uid, fracture] = await Promise.all(
  ["in_version", "study_uid", "fracture"].map((name) => read(table.resolve(name))));
const at = (values, i) => (values.get ? values.get(i) : values[i]);
const studies = {};
for (let row = 0; row < uid.shape[0]; row++) {
  if (!at(inVersion.data, row)) continue;
  const image = await read(root.resolve("image"), [row, null, null, null, null]);
  studies[at(uid.data, row)] = [at(fracture.data, row * fracture.shape[1]), Array.from(image.data)];
}
console.log(JSON.stringify(studies));
"""

ZARR_3_2 = """
import json, sys, warnings
import numpy, xarray, zarr
warnings.simplefilter("error")
assert zarr.__version__.startswith("3.2"), zarr.__version__
arrays = xarray.open_zarr(sys.argv[1])
path = arrays.attrs["spine_etl"]["latest"]["path"]
studies = xarray.merge([arrays, xarray.open_zarr(sys.argv[1], group=path)], combine_attrs="drop_conflicts",
                       join="exact", compat="no_conflicts")
studies = studies.isel(row=studies.in_version.to_numpy())
xarray.open_datatree(sys.argv[1], engine="zarr")
table = zarr.open_group(sys.argv[1], mode="r")[path]
image = zarr.open_array(sys.argv[1] + "/image", mode="r")
result = {}
for i in numpy.flatnonzero(table["in_version"][...]).tolist():
    result[str(table["study_uid"][i])] = [int(table["fracture"][i, 0]), image[i].ravel().tolist()]
merged = {str(uid): [int(f), x.ravel().tolist()] for uid, f, x in zip(
    studies.study_uid.values, studies.fracture.sel(level="C1").values, studies.image.values)}
assert merged == result
print(json.dumps(result))
"""


def run_client(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    studies: dict[str, Any] = json.loads(done.stdout)
    shape = voxels(0)["image"].shape
    return {uid: (fracture, np.reshape(image, shape)) for uid, (fracture, image) in studies.items()}


@pytest.fixture
def installed() -> Callable[[str], Path]:
    def find(name: str) -> Path:
        if not (CLIENTS / name).exists():
            pytest.skip(f"{name} is not installed: make clients")
        return CLIENTS / name

    return find


def test_zarrita(root: Path, installed: Callable[[str], Path]) -> None:
    script = installed("node_modules/zarrita").parents[1] / "read.mjs"
    script.write_text(ZARRITA)
    node = shutil.which("node")
    assert node is not None
    assert_pairs(run_client([node, str(script), str(root)]))


def test_zarr_python_3_2(root: Path, installed: Callable[[str], Path], tmp_path: Path) -> None:
    script = tmp_path / "read.py"
    script.write_text(ZARR_3_2)
    assert_pairs(run_client([str(installed("zarr-3.2/bin/python")), str(script), str(root)]))
