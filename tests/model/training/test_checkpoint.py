"""Files of a run: whole or not there, of this network or refused, and never code."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.networks.cnn_lstm import CnnLstm, NetworkSettings, narrow_trunk, resnet_trunk
from model.training.checkpoint import (
    LAST,
    MODEL,
    PREVIOUS,
    STATE,
    WEIGHTS,
    Model,
    check_identity,
    load_last,
    load_model,
    load_trunk_weights,
    load_weights,
    save_last,
    save_weights,
)
from model.training.recipe import ViewSettings
from spine_etl.errors import CheckpointInvalid
from spine_etl.store import Store

SMALL = NetworkSettings(encoder="narrow", hidden=4)
IDENTITY = {"version": 1, "root_digest": "ab"}


def state(**more: object) -> dict[str, object]:
    """A state with all that one holds."""
    return {**dict.fromkeys(STATE), "identity": IDENTITY, **more}


def network(seed: int = 0, hidden: int = 4) -> CnnLstm:
    torch.manual_seed(seed)
    return CnnLstm(SMALL.model_copy(update={"hidden": hidden}), channels=2, levels=2)


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_weights_come_back(tmp_path: Path) -> None:
    save_weights(tmp_path / WEIGHTS, network(1))
    other = network(2)
    load_weights(tmp_path / WEIGHTS, other)
    assert equal(other, network(1))


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


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    for step in range(3):
        save_last(tmp_path, state(step=step))
    assert load_last(tmp_path)["step"] == 2
    (tmp_path / PREVIOUS).replace(tmp_path / LAST)
    assert load_last(tmp_path)["step"] == 1


def test_another_store_is_refused(tmp_path: Path) -> None:
    check_identity(tmp_path, state(), IDENTITY)
    with pytest.raises(CheckpointInvalid, match="root_digest ab, not cd"):
        check_identity(tmp_path, state(), IDENTITY | {"root_digest": "cd"})


def test_a_damaged_state_names_the_one_before(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="without --resume"):
        load_last(tmp_path)
    save_last(tmp_path, state(weights=torch.zeros(100)))
    path = tmp_path / LAST
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointInvalid, match=PREVIOUS):
        load_last(tmp_path)
    save_last(tmp_path, {"identity": IDENTITY})
    with pytest.raises(CheckpointInvalid, match="another release"):
        load_last(tmp_path)


class Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("sprung"),)


def test_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"identity": IDENTITY, "trap": Trap()}, tmp_path / LAST)
    with pytest.raises(CheckpointInvalid):
        load_last(tmp_path)
    torch.save({"conv1.weight": Trap()}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointInvalid):
        load_trunk_weights(tmp_path / "weights.pt", narrow_trunk(3)[0])
    assert not Path("sprung").exists()
    with (tmp_path / LAST).open("wb") as file:
        pickle.dump([1], file, protocol=2)
    with pytest.raises(CheckpointInvalid):
        load_last(tmp_path)


def trunk(seed: int, channels: int = 3) -> torch.nn.Module:
    torch.manual_seed(seed)
    return narrow_trunk(channels)[0]


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_trunk_weights_under_torchvisions_names(tmp_path: Path, name: str) -> None:
    tensors = {k: v for k, v in trunk(1).state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight"} <= tensors.keys()
    tensors |= {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}
    (save_file if name.endswith("safetensors") else torch.save)(tensors, tmp_path / name)  # type: ignore[operator]
    other = trunk(2)
    load_trunk_weights(tmp_path / name, other)
    assert equal(other, trunk(1))


def test_other_channels_give_what_a_grey_picture_gave(tmp_path: Path) -> None:
    save_file(trunk(1).state_dict(), tmp_path / "weights.safetensors")
    wider = trunk(2, channels=6)
    load_trunk_weights(tmp_path / "weights.safetensors", wider)
    grey = torch.rand(2, 1, 32, 32)
    expected = trunk(1).eval()(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(wider.eval()(grey.repeat(1, 6, 1, 1)), expected)


def test_a_trunk_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_file(resnet_trunk("resnet18", 3)[0].state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointInvalid, match="another architecture"):
        load_trunk_weights(tmp_path / "weights.safetensors", trunk(0))
    with pytest.raises(CheckpointInvalid, match=r"absent\.pt cannot be read"):
        load_trunk_weights(tmp_path / "absent.pt", trunk(0))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointInvalid, match="something else"):
        load_trunk_weights(tmp_path / "list.pt", trunk(0))


def finished(run: Path, store: Store, **fields: object) -> None:
    known = {
        "recipe": "quick", "network": SMALL, "view": ViewSettings(neighbours=1), "levels": store.levels,
        "fingerprint": store.fingerprint, "version": 1, "root_digest": store.root_digest, "fold": 0,
        "temperature": 1.0, "prevalence": [0.5] * 3, "weighted_prevalence": [0.5] * 3,
    }  # fmt: skip
    model = Model.model_validate({**known, **fields})
    (run / MODEL).write_text(model.model_dump_json())
    save_weights(run / WEIGHTS, network())


def test_a_finished_run_is_read(tmp_path: Path, tiny_store: Store) -> None:
    finished(tmp_path, tiny_store)
    read, model = load_model(tmp_path, tiny_store)
    assert equal(read, network())
    assert not read.training
    assert model.fold == 0


def test_a_run_of_another_recipe_is_refused(tmp_path: Path, tiny_store: Store) -> None:
    with pytest.raises(CheckpointInvalid, match=MODEL):
        load_model(tmp_path, tiny_store)
    finished(tmp_path, tiny_store, fingerprint="0" * 64)
    with pytest.raises(CheckpointInvalid, match="fingerprint"):
        load_model(tmp_path, tiny_store)
    finished(tmp_path, tiny_store, network=SMALL.model_copy(update={"hidden": 8}))
    with pytest.raises(CheckpointInvalid, match="architecture"):
        load_model(tmp_path, tiny_store)
    (tmp_path / MODEL).write_text("{}")
    with pytest.raises(CheckpointInvalid, match="damaged"):
        load_model(tmp_path, tiny_store)
