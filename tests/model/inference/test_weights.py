"""Weights and their description: saved and loaded, refused for another network, never executed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.data.views import ViewSettings
from model.inference.weights import (
    MODEL,
    WEIGHTS,
    ModelDescription,
    constant_prediction,
    load_model,
    load_trunk_weights,
    load_weights,
    save_weights,
)
from model.networks.cnn_lstm import CnnLstm, NetworkSettings
from model.networks.encoders import narrow_trunk, resnet_trunk
from spine_etl.errors import CheckpointInvalid
from spine_etl.store import Store

SMALL = NetworkSettings(encoder="narrow", hidden=4)


def network(seed: int = 0, hidden: int = 4) -> CnnLstm:
    torch.manual_seed(seed)
    return CnnLstm(SMALL.model_copy(update={"hidden": hidden}), channels=2, levels=2)


def same_state(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_saved_weights_are_loaded_unchanged(tmp_path: Path) -> None:
    save_weights(tmp_path / WEIGHTS, network(1))
    other = network(2)
    load_weights(tmp_path / WEIGHTS, other)
    assert same_state(other, network(1))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / WEIGHTS, network(hidden=8))
    with pytest.raises(CheckpointInvalid, match="another architecture"):
        load_weights(tmp_path / WEIGHTS, network())


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / WEIGHTS, network())
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointInvalid, match="damaged"):
        load_weights(path, network())
    with pytest.raises(CheckpointInvalid, match="No such file"):
        load_weights(tmp_path / "none" / WEIGHTS, network())


class CreatesFile:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("executed"),)


def test_loading_trunk_weights_executes_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": CreatesFile()}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointInvalid):
        load_trunk_weights(tmp_path / "weights.pt", narrow_trunk(3)[0])
    assert not Path("executed").exists()


def trunk(seed: int, channels: int = 3) -> torch.nn.Module:
    torch.manual_seed(seed)
    return narrow_trunk(channels)[0]


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_trunk_weights_are_loaded_by_torchvision_names(tmp_path: Path, name: str) -> None:
    tensors = {k: v for k, v in trunk(1).state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight"} <= tensors.keys()
    tensors |= {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}
    (save_file if name.endswith("safetensors") else torch.save)(tensors, tmp_path / name)  # type: ignore[operator]
    other = trunk(2)
    load_trunk_weights(tmp_path / name, other)
    assert same_state(other, trunk(1))


def test_more_input_channels_keep_the_output_for_a_grey_image(tmp_path: Path) -> None:
    save_file(trunk(1).state_dict(), tmp_path / "weights.safetensors")
    wider = trunk(2, channels=6)
    load_trunk_weights(tmp_path / "weights.safetensors", wider)
    grey = torch.rand(2, 1, 32, 32)
    expected = trunk(1).eval()(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(wider.eval()(grey.repeat(1, 6, 1, 1)), expected)


def test_trunk_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_file(resnet_trunk("resnet18", 3)[0].state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointInvalid, match="another architecture"):
        load_trunk_weights(tmp_path / "weights.safetensors", trunk(0))
    with pytest.raises(CheckpointInvalid, match=r"absent\.pt cannot be read"):
        load_trunk_weights(tmp_path / "absent.pt", trunk(0))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointInvalid, match="not a state dict"):
        load_trunk_weights(tmp_path / "list.pt", trunk(0))


def write_run(run: Path, store: Store, **fields: object) -> None:
    defaults = {
        "recipe": "quick", "network": SMALL, "view": ViewSettings(neighbours=1), "levels": store.levels,
        "fingerprint": store.fingerprint, "version": 1, "root_digest": store.root_digest, "fold": 0,
        "temperature": 1.0, "prevalence": [0.5] * 3, "weighted_prevalence": [0.5] * 3,
    }  # fmt: skip
    description = ModelDescription.model_validate({**defaults, **fields})
    (run / MODEL).write_text(description.model_dump_json())
    save_weights(run / WEIGHTS, network())


def test_finished_run_is_loaded(tmp_path: Path, tiny_store: Store) -> None:
    write_run(tmp_path, tiny_store)
    loaded, description = load_model(tmp_path, tiny_store)
    assert same_state(loaded, network())
    assert not loaded.training
    assert description.fold == 0


def test_run_of_another_recipe_is_refused(tmp_path: Path, tiny_store: Store) -> None:
    with pytest.raises(CheckpointInvalid, match=MODEL):
        load_model(tmp_path, tiny_store)
    write_run(tmp_path, tiny_store, fingerprint="0" * 64)
    with pytest.raises(CheckpointInvalid, match="fingerprint"):
        load_model(tmp_path, tiny_store)
    write_run(tmp_path, tiny_store, network=SMALL.model_copy(update={"hidden": 8}))
    with pytest.raises(CheckpointInvalid, match="architecture"):
        load_model(tmp_path, tiny_store)
    (tmp_path / MODEL).write_text("{}")
    with pytest.raises(CheckpointInvalid, match="damaged"):
        load_model(tmp_path, tiny_store)


def test_format_1_is_refused_only_where_the_network_saw_the_old_soft_tissue_window(
    tmp_path: Path, tiny_store: Store
) -> None:
    write_run(tmp_path, tiny_store, format=1)
    assert load_model(tmp_path, tiny_store)[1].format == 1  # a stack shows the bone window alone
    write_run(tmp_path, tiny_store, format=1, view=ViewSettings(kind="windows"))
    with pytest.raises(CheckpointInvalid, match=r"50 width 350 HU.*center 40 width 400 HU.*Train it again"):
        load_model(tmp_path, tiny_store)


def test_new_runs_are_of_format_2(tmp_path: Path, tiny_store: Store) -> None:
    write_run(tmp_path, tiny_store, view=ViewSettings(kind="windows"))
    save_weights(tmp_path / WEIGHTS, CnnLstm(SMALL, channels=3, levels=2))
    assert json.loads((tmp_path / MODEL).read_text())["format"] == 2
    assert load_model(tmp_path, tiny_store)[1].view.kind == "windows"


def described(weighted: list[float]) -> ModelDescription:
    return ModelDescription(
        recipe="quick", network=SMALL, view=ViewSettings(), levels=["C1", "C2"], fingerprint="", version=1,
        root_digest="", fold=0, temperature=1.0, prevalence=[0.5] * 3, weighted_prevalence=weighted,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("prevalence", "constant"),
    [
        (0.0, 0.01),
        (0.0099, 0.01),
        (0.0101, 0.0101),
        (0.5, 0.5),
        (0.9899, 0.9899),
        (0.9901, 0.99),
        (1.0, 0.99),
    ],
)
def test_constant_is_between_1_and_99_percent(prevalence: float, constant: float) -> None:
    assert constant_prediction([described([0.3, prevalence, 0.7])]).tolist() == pytest.approx(
        [0.3, constant, 0.7], abs=1e-12
    )


def test_constant_of_several_runs_is_bounded_after_the_mean() -> None:
    """0 and 0.04 make 0.02, not the mean of 0.01 and 0.04."""
    constants = constant_prediction([described([0.0, 0.2, 1.0]), described([0.04, 0.4, 1.0])])
    assert constants.tolist() == pytest.approx([0.02, 0.3, 0.99], abs=1e-12)
