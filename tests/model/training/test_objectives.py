"""The inputs of each objective: every slice with a known label once, and no others."""

from __future__ import annotations

import math

import pytest
import torch

from model.data.inputs import Inputs
from model.distributed import Ranks
from model.networks.cnn_lstm import CnnLstm, NetworkSettings
from model.networks.encoders import Encoding
from model.training.losses import evidence_term, slice_term
from model.training.objectives import JointObjective, SliceObjective
from model.training.recipe import Stage

STAGE = Stage(objective="slices", epochs=1, batch_size=5, learning_rate=0.1)


def inputs() -> Inputs:
    """Two studies, two levels, four slices; each slice is filled with its own number."""
    number = torch.arange(16.0).view(2, 2, 4)
    slices = torch.zeros(2, 2, 4)
    slices[0, 0] = torch.tensor([1.0, 1.0, 0.0, -1.0])
    slices[1, 1] = -1.0  # a fractured level without a box
    located = torch.tensor([[True, True], [False, True]])
    views = number[..., None, None, None].expand(2, 2, 4, 1, 8, 8).contiguous()
    known = torch.ones(2, 3, dtype=torch.bool)
    box_masks = (number[..., None, None] * torch.ones(8, 8)).to(torch.uint8)
    return Inputs(views, located, torch.zeros(2, 3), known, slices, torch.zeros(2, 2, 4).long(), box_masks)


def many() -> Inputs:
    """400 slices per level: 40 fractured, 1,160 others."""
    few = inputs()
    slices = torch.zeros(2, 2, 400)
    slices[0, 0, ::10] = 1
    wide = {name: getattr(few, name)[:, :, :1].repeat_interleave(400, 2) for name in ("views", "box_masks")}
    return Inputs(**{**vars(few), **wide, "slices": slices})


def network() -> CnnLstm:
    torch.manual_seed(0)
    return CnnLstm(NetworkSettings(encoder="narrow", hidden=4), 1, 2)


def test_each_slice_with_a_label_is_trained_on_once() -> None:
    objective = SliceObjective(network(), STAGE, Ranks())
    steps = list(objective.steps(inputs(), seed=1))
    assert [len(step.labels) for step in steps] == [4, 3]
    label_of_slice = {
        int(view[0, 0, 0]): float(label)
        for step in steps
        for view, label in zip(step.views, step.labels, strict=True)
    }
    assert label_of_slice == {0: 1, 1: 1, 2: 0, 4: 0, 5: 0, 6: 0, 7: 0}
    for step in steps:
        assert step.box_masks is not None
        assert torch.equal(step.box_masks[:, 0, 0].float(), step.views[:, 0, 0, 0])


def test_order_depends_on_the_seed() -> None:
    objective = SliceObjective(network(), STAGE, Ranks())

    def order(seed: int) -> list[float]:
        return [float(view[0, 0, 0]) for step in objective.steps(inputs(), seed) for view in step.views]

    assert order(1) == order(1) != order(2)


@pytest.mark.parametrize("slices", [2, 3, 5, 16])
def test_no_step_has_a_single_slice(slices: int) -> None:
    """Batch norm would divide by a variance of zero."""
    few = many()
    labels = torch.full_like(few.slices, -1.0)
    labels[0, 0, :slices] = 0
    objective = SliceObjective(network(), STAGE.model_copy(update={"batch_size": 1}), Ranks())
    counts = [len(step.labels) for step in objective.steps(Inputs(**{**vars(few), "slices": labels}), 1)]
    assert sum(counts) == slices
    assert set(counts) <= {2, 3}


def test_unfractured_slices_are_thinned_differently_for_each_seed() -> None:
    objective = SliceObjective(
        network(), STAGE.model_copy(update={"negatives": 1.0, "batch_size": 2}), Ranks()
    )

    def slices_and_labels(seed: int) -> list[tuple[float, float]]:
        return [
            (float(v[0, 0, 0]), float(y))
            for step in objective.steps(inputs(), seed)
            for v, y in zip(step.views, step.labels, strict=True)
        ]

    for seed in range(5):
        assert sorted(number for number, label in slices_and_labels(seed) if label) == [0, 1]
        assert len(slices_and_labels(seed)) == 4
    assert len({number for seed in range(20) for number, label in slices_and_labels(seed) if not label}) == 5


def test_thinning_keeps_the_odds_of_all_slices() -> None:
    """The constant logit with the lowest loss on thinned slices is the log odds of all: ln(40 / 1160)."""
    objective = SliceObjective(
        network(), STAGE.model_copy(update={"negatives": 3.0, "batch_size": 160}), Ranks()
    )
    (step,) = objective.steps(many(), seed=1)
    assert (int(step.labels.sum()), len(step.labels)) == (40, 160)
    logit = torch.tensor(0.0, requires_grad=True)

    class Constant(torch.nn.Module):
        def forward(self, views: torch.Tensor) -> Encoding:
            return Encoding(views.new_zeros(len(views), 32), logit.expand(len(views)), None)

    optimizer = torch.optim.LBFGS([logit], max_iter=50)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        (term,) = objective.terms(Constant(), step)
        mean = term.total / term.weight
        mean.backward()
        return mean

    optimizer.step(loss)
    assert logit.item() == pytest.approx(math.log(40 / 1160), abs=1e-3)


def test_logistic_regression_on_thinned_slices_has_the_odds_of_all() -> None:
    """Elkan 2001, theorem 2. A feature of 0 or 1: fractured are 40 of 200 with it and 10 of 600 without.

    On any sample the maximum-likelihood odds are those of its counts. Of 750 unfractured slices 150 remain,
    a fifth, so the odds of the sample are divided by five.
    """
    few = inputs()
    counts = {(1, 1): 40, (1, 0): 160, (0, 1): 10, (0, 0): 590}  # (feature, label): slices
    rows = torch.tensor([pair for pair, count in counts.items() for _ in range(count)], dtype=torch.float32)
    located = torch.tensor([[True, False], [False, False]])
    slices = torch.full((2, 2, 800), -1.0)
    slices[0, 0] = rows[:, 1]
    views = torch.zeros(2, 2, 800, 1, 1, 1)
    views[0, 0, :, 0, 0, 0] = rows[:, 0]
    fields = {"views": views, "located": located, "slices": slices, "box_masks": None}
    objective = SliceObjective(
        network(), STAGE.model_copy(update={"negatives": 3.0, "batch_size": 200}), Ranks()
    )
    (step,) = objective.steps(Inputs(**{**vars(few), **fields}), seed=1)
    assert (int(step.labels.sum()), len(step.labels)) == (50, 200)
    slope, intercept = (torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2))

    class Regression(torch.nn.Module):
        def forward(self, views: torch.Tensor) -> Encoding:
            return Encoding(views.new_zeros(len(views), 32), slope * views.flatten() + intercept, None)

    optimizer = torch.optim.LBFGS([slope, intercept], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        (term,) = objective.terms(Regression(), step)
        mean = term.total / term.weight
        mean.backward()
        return mean

    optimizer.step(loss)
    feature = step.views.flatten()
    odds = [
        float(((feature == value) & (step.labels == 1)).sum())
        / float(((feature == value) & (step.labels == 0)).sum())
        for value in (0, 1)
    ]
    assert intercept.item() == pytest.approx(math.log(odds[0] / 5), abs=1e-3)
    assert (intercept + slope).item() == pytest.approx(math.log(odds[1] / 5), abs=1e-3)
    # Thinning does not look at the views: a fifth, 118, of the 590 unfractured slices without the feature,
    # within three standard deviations (4.5 each) of the hypergeometric distribution.
    without = int(((feature == 0) & (step.labels == 0)).sum())
    assert abs(without - 118) < 13.6


def test_every_step_has_both_kinds_of_slices() -> None:
    objective = SliceObjective(
        network(), STAGE.model_copy(update={"negatives": 3.0, "batch_size": 40}), Ranks()
    )
    shares = [float(step.labels.mean()) for step in objective.steps(many(), seed=1)]
    assert len(shares) == 4  # 40 fractured, 120 others
    assert all(0.1 < share < 0.45 for share in shares)  # about a quarter


def test_boxes_are_used_if_there_is_an_evidence_map_and_no_mixing() -> None:
    net = network()
    objective = SliceObjective(net, STAGE, Ranks())
    step = next(objective.steps(inputs(), 1))
    encoding = net.encoder(step.views)
    (with_boxes,) = objective.terms(net.encoder, step)
    assert step.box_masks is not None
    torch.testing.assert_close(
        with_boxes.total, evidence_term(encoding.evidence, step.labels, step.box_masks).total
    )
    (without,) = objective.terms(net.encoder, step._replace(box_masks=None))
    torch.testing.assert_close(without.total, slice_term(encoding.logits, step.labels).total)
    assert not torch.equal(with_boxes.total, without.total)


def test_slice_objective_does_not_train_the_lstm() -> None:
    net = network()
    objective = SliceObjective(net, STAGE, Ranks())
    (term,) = objective.terms(objective.trained, next(objective.steps(inputs(), 1)))
    term.total.backward()
    assert all(p.grad is not None for p in net.encoder.parameters())
    assert all(p.grad is None for p in net.sequence.parameters())


def test_slice_loss_has_its_factor() -> None:
    stage = STAGE.model_copy(update={"objective": "joint", "slice_factor": 0.5})
    objective = JointObjective(network(), stage, Ranks())
    columns, slices = objective.terms(objective.trained, next(objective.steps(inputs(), 1)))
    assert (columns.factor, slices.factor) == (1.0, 0.5)
    assert len(JointObjective(network(), STAGE, Ranks()).terms(network(), inputs())) == 1


def test_batch_without_labels_or_levels_makes_no_step() -> None:
    given = inputs()
    for known in (0, 1):  # a single slice has no variance
        slices = torch.full_like(given.slices, -1.0)
        slices[0, 1, :known] = 0.0
        few = Inputs(**{**vars(given), "slices": slices})
        assert list(SliceObjective(network(), STAGE, Ranks()).steps(few, seed=1)) == []
    nowhere = Inputs(**{**vars(given), "located": torch.zeros(2, 2, dtype=torch.bool)})
    assert list(JointObjective(network(), STAGE, Ranks()).steps(nowhere, seed=1)) == []
