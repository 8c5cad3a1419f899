"""What each objective feeds on: all of it once, and only what is known."""

from __future__ import annotations

import math

import pytest
import torch

from model.data.inputs import Inputs
from model.distributed import Ranks
from model.networks.cnn_lstm import CnnLstm, Encoding, NetworkSettings
from model.training.losses import place_term, slice_term
from model.training.objectives import Joint, Slices
from model.training.recipe import Stage

STAGE = Stage(objective="slices", epochs=1, batch_size=5, learning_rate=0.1)


def inputs() -> Inputs:
    """Two studies, two levels, four slices; each slice is filled with a number of its own."""
    number = torch.arange(16.0).view(2, 2, 4)
    slices = torch.zeros(2, 2, 4)
    slices[0, 0] = torch.tensor([1.0, 1.0, 0.0, -1.0])
    slices[1, 1] = -1.0  # a fractured level without a box
    located = torch.tensor([[True, True], [False, True]])
    views = number[..., None, None, None].expand(2, 2, 4, 1, 8, 8).contiguous()
    known = torch.ones(2, 3, dtype=torch.bool)
    marks = (number[..., None, None] * torch.ones(8, 8)).to(torch.uint8)
    return Inputs(views, located, torch.zeros(2, 3), known, slices, torch.zeros(2, 2, 4).long(), marks)


def many() -> Inputs:
    """400 slices a level: 40 fractured, 1,160 others."""
    few = inputs()
    slices = torch.zeros(2, 2, 400)
    slices[0, 0, ::10] = 1
    wide = {name: getattr(few, name)[:, :, :1].repeat_interleave(400, 2) for name in ("views", "marks")}
    return Inputs(**{**vars(few), **wide, "slices": slices})


def network() -> CnnLstm:
    torch.manual_seed(0)
    return CnnLstm(NetworkSettings(encoder="narrow", hidden=4), 1, 2)


def test_each_known_slice_is_fed_once() -> None:
    objective = Slices(network(), STAGE, Ranks())
    feeds = list(objective.feeds(inputs(), seed=1))
    assert [len(feed.labels) for feed in feeds] == [4, 3]
    fed = {
        int(view[0, 0, 0]): float(label)
        for feed in feeds
        for view, label in zip(feed.views, feed.labels, strict=True)
    }
    assert fed == {0: 1, 1: 1, 2: 0, 4: 0, 5: 0, 6: 0, 7: 0}
    for feed in feeds:
        assert feed.marks is not None
        assert torch.equal(feed.marks[:, 0, 0].float(), feed.views[:, 0, 0, 0])


def test_the_order_is_the_seeds() -> None:
    objective = Slices(network(), STAGE, Ranks())

    def order(seed: int) -> list[float]:
        return [float(view[0, 0, 0]) for feed in objective.feeds(inputs(), seed) for view in feed.views]

    assert order(1) == order(1) != order(2)


@pytest.mark.parametrize("slices", [2, 3, 5, 16])
def test_no_step_has_a_single_slice(slices: int) -> None:
    """A batch norm would have no variance to divide by."""
    few = many()
    labels = torch.full_like(few.slices, -1.0)
    labels[0, 0, :slices] = 0
    objective = Slices(network(), STAGE.model_copy(update={"batch_size": 1}), Ranks())
    feeds = [len(feed.labels) for feed in objective.feeds(Inputs(**{**vars(few), "slices": labels}), 1)]
    assert sum(feeds) == slices
    assert set(feeds) <= {2, 3}


def test_unfractured_slices_are_thinned_and_drawn_anew() -> None:
    objective = Slices(network(), STAGE.model_copy(update={"negatives": 1.0, "batch_size": 2}), Ranks())

    def fed(seed: int) -> list[tuple[float, float]]:
        feeds = objective.feeds(inputs(), seed)
        return [
            (float(v[0, 0, 0]), float(y))
            for feed in feeds
            for v, y in zip(feed.views, feed.labels, strict=True)
        ]

    for seed in range(5):
        assert sorted(number for number, label in fed(seed) if label) == [0, 1]
        assert len(fed(seed)) == 4
    assert len({number for seed in range(20) for number, label in fed(seed) if not label}) == 5


def test_thinning_leaves_the_odds_of_all_slices() -> None:
    """The constant logit of least loss on a thinned feed is the log odds of all slices: ln(40 / 1160)."""
    objective = Slices(network(), STAGE.model_copy(update={"negatives": 3.0, "batch_size": 160}), Ranks())
    (feed,) = objective.feeds(many(), seed=1)
    assert (int(feed.labels.sum()), len(feed.labels)) == (40, 160)
    said = torch.tensor(0.0, requires_grad=True)

    class Constant(torch.nn.Module):
        def forward(self, views: torch.Tensor) -> Encoding:
            return Encoding(views.new_zeros(len(views), 32), said.expand(len(views)), None)

    best = torch.optim.LBFGS([said], max_iter=50)

    def loss() -> torch.Tensor:
        best.zero_grad()
        (term,) = objective.terms(Constant(), feed)
        mean = term.total / term.weight
        mean.backward()
        return mean

    best.step(loss)
    assert said.item() == pytest.approx(math.log(40 / 1160), abs=1e-3)


def test_every_step_sees_both_kinds() -> None:
    objective = Slices(network(), STAGE.model_copy(update={"negatives": 3.0, "batch_size": 40}), Ranks())
    shares = [float(feed.labels.mean()) for feed in objective.feeds(many(), seed=1)]
    assert len(shares) == 4  # 40 fractured, 120 others
    assert all(0.1 < share < 0.45 for share in shares)  # a quarter, give or take


def test_boxes_teach_where_only_where_there_is_a_map_and_nothing_is_mixed() -> None:
    whole = network()
    objective = Slices(whole, STAGE, Ranks())
    feed = next(objective.feeds(inputs(), 1))
    said = whole.encoder(feed.views)
    (with_marks,) = objective.terms(whole.encoder, feed)
    assert feed.marks is not None
    torch.testing.assert_close(with_marks.total, place_term(said.places, feed.labels, feed.marks).total)
    (without,) = objective.terms(whole.encoder, feed._replace(marks=None))
    torch.testing.assert_close(without.total, slice_term(said.logits, feed.labels).total)
    assert not torch.equal(with_marks.total, without.total)


def test_the_slice_objective_leaves_the_lstm_alone() -> None:
    whole = network()
    objective = Slices(whole, STAGE, Ranks())
    (term,) = objective.terms(objective.trained, next(objective.feeds(inputs(), 1)))
    term.total.backward()
    assert all(p.grad is not None for p in whole.encoder.parameters())
    assert all(p.grad is None for p in whole.sequence.parameters())


def test_slices_take_part_by_their_factor() -> None:
    stage = STAGE.model_copy(update={"objective": "joint", "slice_factor": 0.5})
    objective = Joint(network(), stage, Ranks())
    columns, slices = objective.terms(objective.trained, next(objective.feeds(inputs(), 1)))
    assert (columns.factor, slices.factor) == (1.0, 0.5)
    assert len(Joint(network(), STAGE, Ranks()).terms(network(), inputs())) == 1


def test_a_batch_that_nothing_can_be_learnt_from_makes_no_step() -> None:
    given = inputs()
    for known in (0, 1):  # a single slice has no variance to normalise by
        slices = torch.full_like(given.slices, -1.0)
        slices[0, 1, :known] = 0.0
        few = Inputs(**{**vars(given), "slices": slices})
        assert list(Slices(network(), STAGE, Ranks()).feeds(few, seed=1)) == []
    nowhere = Inputs(**{**vars(given), "located": torch.zeros(2, 2, dtype=torch.bool)})
    assert list(Joint(network(), STAGE, Ranks()).feeds(nowhere, seed=1)) == []
