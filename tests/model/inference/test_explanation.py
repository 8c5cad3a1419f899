"""The picture of a study: drawn with and without crops, and each level with its own boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from model.inference.explanation import (
    ExplainedLevel,
    draw_study,
    explain_study,
    level_boxes,
    study_figure,
)
from model.inference.submission import predict_store
from model.inference.weights import MODEL
from model.options import ExplainOptions, PredictOptions
from spine_etl.errors import StudyNotInStore
from spine_etl.store import Store
from spine_etl.store.record import BoxRecord, LevelRecord


def test_study_is_drawn(tiny_store: Store, tmp_path: Path, write_run: Callable[..., Path]) -> None:
    run = write_run(tmp_path / "run", tiny_store)
    out = tmp_path / "study.png"
    explain_study(ExplainOptions(str(tiny_store.location), run, tiny_store.study_uids[3], out, device="cpu"))
    assert out.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(StudyNotInStore):
        explain_study(ExplainOptions(str(tiny_store.location), run, "9.9", out, device="cpu"))


def test_study_without_crops_is_drawn(
    tmp_path: Path, build_store: Callable[..., Store], write_run: Callable[..., Path]
) -> None:
    absent = LevelRecord(status="absent")
    store = build_store(tmp_path / "store", 5, {1: {"levels": {"C1": absent, "C2": absent}}})
    run = write_run(tmp_path / "run", store)
    out = tmp_path / "study.png"
    explain_study(ExplainOptions(str(store.location), run, store.study_uids[1], out, device="cpu"))
    assert out.exists()


@pytest.mark.parametrize(
    ("prevalence", "shown"),
    [("1.0", 0.99), ("0.991", 0.99), ("0.98", 0.98), ("0.02", 0.02), ("0.009", 0.01), ("0.0", 0.01)],
)
def test_study_without_crops_has_the_constant_of_the_submission(
    tmp_path: Path,
    build_store: Callable[..., Store],
    write_run: Callable[..., Path],
    prevalence: str,
    shown: float,
) -> None:
    absent = LevelRecord(status="absent")
    store = build_store(tmp_path / "store", 3, {1: {"levels": {"C1": absent, "C2": absent}}})
    run = write_run(tmp_path / "run", store)
    (run / MODEL).write_text((run / MODEL).read_text().replace("0.15,0.25,0.45", f"0.15,0.25,{prevalence}"))
    out, uid = tmp_path / "table.csv", store.study_uids[1]
    figure = study_figure(ExplainOptions(str(store.location), run, uid, tmp_path / "x.png", device="cpu"))
    assert f": patient {shown:.2f} " in figure.get_suptitle()
    predict_store(PredictOptions(str(store.location), (run,), out, device="cpu"))
    assert f"{uid}_patient_overall,{shown:.6f}\n" in out.read_text()


def test_level_has_its_own_boxes_and_those_of_no_level(
    tmp_path: Path, build_store: Callable[..., Store]
) -> None:
    def box(level: str | None, z: float) -> BoxRecord:
        corners = dict.fromkeys(("C1", "C2"), (z, 1.0, 1.0, z + 1, 3.0, 3.0))
        return BoxRecord(x=1, y=1, width=2, height=2, slice_number=1, level=level, in_crops=corners)

    boxes = (box("C1", 0.0), box("C2", 2.0), box(None, 4.0))
    store = build_store(tmp_path / "store", 3, {1: {"boxes": boxes}})
    assert level_boxes(store, 1, 0)[:, 0].tolist() == [0.0, 4.0]
    assert level_boxes(store, 1, 1)[:, 0].tolist() == [2.0, 4.0]
    assert len(level_boxes(store, 0, 0)) == 0


def test_tiles_show_the_bone_window_the_most_suspicious_slice_and_its_boxes() -> None:
    random = np.random.default_rng(0)
    level = ExplainedLevel(
        name="C2",
        image=random.integers(-1024, 2000, (6, 8, 10)).astype(np.int16),
        mask=random.random((6, 8, 10)) > 0.5,
        positions=np.array([4, 1, 2]),
        slice_probabilities=np.array([0.1, 0.7, 0.3]),
        probability=0.6,
        boxes=np.array([[1.0, 2.0, 3.0, 2.0, 5.0, 7.0]]),
        label=1,
    )
    assert level.most_suspicious_z == 1
    figure = draw_study("title", [None, level], ["C1", "C2"], spacing_mm=2.0)
    sagittal, axial, curve = figure.axes[1], figure.axes[3], figure.axes[5]
    assert np.array_equal(axial.images[0].get_array(), level.image[1])
    assert axial.images[0].get_clim() == (-500, 1299)  # center 400, width 1800: PS3.3 C.11.2.1.2.1
    (box,) = [patch for patch in axial.patches if isinstance(patch, Rectangle)]
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((3, 2), 4, 3)
    (box,) = [patch for patch in sagittal.patches if isinstance(patch, Rectangle)]
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((2, 1), 3, 1)
    assert curve.lines[0].get_xdata().tolist() == [2.0, 4.0, 8.0]  # mm, rising
    assert curve.lines[0].get_ydata().tolist() == [0.7, 0.3, 0.1]
