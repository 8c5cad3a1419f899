"""Cached features are those of each study alone, and batches of them resume anywhere in an epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.data.views import ViewSettings
from model.distributed import Ranks
from model.inference.predictor import Predictor
from model.networks.cnn_lstm import CnnLstm, NetworkSettings
from model.training.cached_features import CachedBatches, CachedFeatures, cache_features
from spine_etl.errors import CheckpointInvalid
from spine_etl.store import Store

STUDIES = np.array([3, 4, 6, 9, 10, 12, 15])


def batches() -> CachedBatches:
    """Seven studies whose features are their indices in the store, three in a batch."""
    own = torch.tensor(STUDIES)
    return CachedBatches(CachedFeatures(*[own] * 5), STUDIES, batch_size=3, seed=5, ranks=Ranks())


def epoch_of(source: CachedBatches) -> list[list[int]]:
    """The studies of each batch up to the end of the epoch; the features must be those of these studies."""
    found = []
    for batch in source:
        assert batch.fields.features.tolist() == batch.study.tolist()
        found.append(batch.study.tolist())
    return found


def test_epochs_are_numpys_permutations_of_the_studies() -> None:
    source = batches()
    for epoch in range(3):
        order = STUDIES[np.random.default_rng([5, epoch]).permutation(7)].tolist()
        assert epoch_of(source) == [order[:3], order[3:6], order[6:]]
        assert (source.epoch, source.position) == (epoch + 1, 0)


@pytest.mark.parametrize("taken", range(3))
def test_state_continues_with_the_next_batch(taken: int) -> None:
    whole = epoch_of(batches())
    source = batches()
    for _, _batch in zip(range(taken), source, strict=False):
        pass
    resumed = batches()
    resumed.load_state_dict(source.state_dict() if taken else {"epoch": 0, "position": 0, "studies": 7})
    assert epoch_of(resumed) == whole[taken:]


def test_state_of_other_studies_is_refused() -> None:
    with pytest.raises(CheckpointInvalid, match="had 8 studies, this one has 7"):
        batches().load_state_dict({"epoch": 0, "position": 0, "studies": 8})


def test_features_of_a_study_do_not_depend_on_its_batch(tiny_store: Store) -> None:
    """They are rows in the order of the request, from a network in eval mode, without gradients."""
    torch.manual_seed(0)
    view = ViewSettings(positions=3, neighbours=1)
    network = CnnLstm(NetworkSettings(encoder="narrow", hidden=4), view.channels, 2).train()
    predictor = Predictor(network, view, tiny_store, torch.device("cpu"))
    studies = np.array([7, 0, 11, 2, 5])
    together = cache_features(predictor, studies)
    assert not network.training
    assert not together.features.requires_grad
    assert not together.features.is_inference()
    for row, study in enumerate(studies):
        alone = cache_features(predictor, np.array([study]))
        for one, all_of_them in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_of_them[row])
    patients = tiny_store.table["patient_overall"][studies]
    assert together.labels[:, -1].tolist() == patients.tolist()
