"""The hidden Markov model against enumeration, and its mends on stacks of blocks whose names are known."""

from __future__ import annotations

import json
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.localizer import hmm
from model.localizer.hmm import LevelOrder, Relabelled, decode, forward_backward, relabel, viterbi
from spine_etl.errors import CheckpointInvalid

Labels = npt.NDArray[np.int64]
K = 7
SPACING = 3.0
CERTAIN = 0.97
"""The networks' probability of what they say, right or wrong."""


def random_chain(seed: int, states: int = 3, times: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log probabilities, a third of the moves and some starts and sights of them impossible."""
    random = np.random.default_rng(seed)
    initial, transition, emission = (
        random.normal(size=shape) for shape in [states, (states, states), (times, states)]
    )
    transition[random.random(transition.shape) < 0.33] = -np.inf
    transition[np.arange(states), np.arange(states)] = random.normal(size=states)
    initial[random.integers(states)] = -np.inf
    emission[random.integers(times), random.integers(states)] = -np.inf
    return initial, transition, emission


def every_path(
    initial: np.ndarray, transition: np.ndarray, emission: np.ndarray
) -> dict[tuple[int, ...], float]:
    """The log probability of each path, one by one."""
    result = {}
    for path in product(range(len(initial)), repeat=len(emission)):
        moves = sum(transition[a, b] for a, b in pairwise(path))
        result[path] = initial[path[0]] + moves + sum(emission[t, s] for t, s in enumerate(path))
    return result


def neck(
    heights: tuple[int, ...] = (4, 8, 5, 5, 4, 5, 6),
    *,
    first: int = 1,
    above: int = 8,
    below: int = 12,
    overlap: int = 1,
) -> Labels:
    """A stack of vertebrae from level ``first`` down, then ``below`` slices of the class below.

    Each is a body, with one slice of disc under it, and an arch behind, which hangs ``overlap`` slices
    lower: from 1 on the arch touches the next vertebra's body and shares slices with it.
    """
    pitches = [*zip(range(first, first + len(heights)), heights, strict=True)]
    if below:
        pitches.append((K + 1, below))
    depth = above + sum(pitch for _, pitch in pitches)
    labels = np.zeros((depth, 24, 24), dtype=np.int64)
    top = above
    for level, pitch in pitches:
        labels[top : top + pitch - 1, 6:13, 8:16] = level
        labels[top + overlap : top + pitch - 1 + overlap, 13:20, 10:14] = level
        top += pitch
    return labels[::-1].copy()


def random_neck(seed: int, **options: Any) -> Labels:
    heights = np.random.default_rng(seed).normal((4, 8, 5, 5, 5, 5, 5), 0.7).round().astype(int)
    return neck(tuple(heights.clip(3).tolist()), **options)


def said(labels: Labels, certain: float = CERTAIN) -> npt.NDArray[np.float32]:
    """A network's probabilities that say these labels, all else being equally unlikely."""
    probabilities = np.full((K + 2, *labels.shape), (1 - certain) / (K + 1), dtype=np.float32)
    np.put_along_axis(probabilities, labels[None], certain, axis=0)
    return probabilities


def mend(labels: Labels, order: LevelOrder) -> Relabelled:
    return relabel(labels, said(labels), order, SPACING)


def extent(labels: Labels, level: int) -> tuple[int, int]:
    """The first slice of a level and the one after its last."""
    z = np.flatnonzero((labels == level).any(axis=(1, 2)))
    return int(z[0]), int(z[-1]) + 1


@pytest.fixture(scope="module")
def order() -> LevelOrder:
    """Learnt from whole necks, all of which begin above the first level."""
    return LevelOrder.fit([random_neck(seed) for seed in range(100, 140)])


@pytest.mark.parametrize("seed", range(12))
def test_viterbi_finds_the_best_of_all_paths(seed: int) -> None:
    chain = random_chain(seed)
    paths = every_path(*chain)
    best = max(paths, key=lambda path: paths[path])
    path, log_probability = viterbi(*chain)
    assert tuple(path) == best
    assert log_probability == pytest.approx(paths[best], abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_forward_backward_sums_over_all_paths(seed: int) -> None:
    chain = random_chain(seed)
    expected = np.zeros_like(chain[2])
    for path, log_probability in every_path(*chain).items():
        expected[np.arange(len(path)), path] += np.exp(log_probability)
    posterior, log_likelihood = forward_backward(*chain)
    assert log_likelihood == pytest.approx(np.log(expected[0].sum()), abs=1e-12)
    np.testing.assert_allclose(posterior, expected / expected[0].sum(), atol=1e-12)


@pytest.mark.parametrize("algorithm", [viterbi, forward_backward])
def test_long_sequences_do_not_underflow(algorithm: Any) -> None:
    uniform = np.log(np.full((2, 2), 0.5))
    _, log_probability = algorithm(uniform[0], uniform, np.full((5000, 2), -50.0))
    expected = 5000 * (-50 - (np.log(2) if algorithm is viterbi else 0))
    assert log_probability == pytest.approx(expected)


@pytest.mark.parametrize("algorithm", [viterbi, forward_backward])
def test_an_impossible_sequence_is_refused(algorithm: Any) -> None:
    stay = np.log([[1.0, 1e-300], [1e-300, 1.0]])
    stay[~np.eye(2, dtype=bool)] = -np.inf
    seen = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
    with pytest.raises(ValueError, match="No path"):
        algorithm(np.zeros(2), stay, seen)


@pytest.mark.parametrize("algorithm", [viterbi, forward_backward])
@pytest.mark.parametrize(
    ("initial", "transition", "emission"),
    [
        (np.zeros(2), np.zeros((3, 3)), np.zeros((4, 2))),
        (np.zeros(2), np.zeros((2, 2)), np.zeros((4, 3))),
        (np.zeros(2), np.zeros((2, 2)), np.zeros((0, 2))),
        (np.zeros(2), np.zeros((2, 2)), np.full((4, 2), np.nan)),
        (np.full(2, np.inf), np.zeros((2, 2)), np.zeros((4, 2))),
    ],
)
def test_what_is_no_chain_is_refused(algorithm: Any, initial: Any, transition: Any, emission: Any) -> None:
    with pytest.raises(ValueError, match=r"fit|NaN"):
        algorithm(initial, transition, emission)


def column(states: list[int]) -> Labels:
    """A label map of one voxel a slice, given from head to foot."""
    return np.array(states, dtype=np.int64)[::-1, None, None]


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ([0, 0, 1, 1, 2, 3, 4, 4, 0], [0, 0, 1, 1, 2, 3, 4, 4, 4]),  # after the class below: below
        ([1, 2, 0, 3, 0, 0], [1, 2, 2, 3, 4, 4]),  # a gap belongs to what is above it; after level K: below
        ([0, 2, 2, 0, 0], [0, 2, 2]),  # after a higher level: unknown
        ([0, 0, 0], []),
    ],
)
def test_a_label_map_is_read_from_head_to_foot(slices: list[int], expected: list[int]) -> None:
    assert hmm.state_sequence(column(slices), levels=3).tolist() == expected


def test_a_slice_has_the_state_of_most_of_its_voxels() -> None:
    labels = np.array([[[2, 2, 2, 1]], [[0, 1, 1, 2]]])
    assert hmm.state_sequence(labels, levels=3).tolist() == [1, 2]


@pytest.mark.parametrize("labels", [np.zeros((2, 2, 2)), np.zeros((2, 2), int), np.full((2, 2, 2), 5)])
def test_what_is_no_label_map_is_refused(labels: Any) -> None:
    with pytest.raises(ValueError, match="Labels are"):
        hmm.state_sequence(labels, levels=3)


def test_stay_probabilities_follow_from_the_heights() -> None:
    # Level 1 is 3 and 5 slices high: six stays and two moves on; with one more of each, 7 of 10 stay.
    maps = [column([0, 0, 1, 1, 1, 2, 2, 3]), column([1, 1, 1, 1, 1, 2, 3, 3]), column([0, 0, 0])]
    order = LevelOrder.fit(maps, levels=2)
    skip = hmm.SKIP
    expected = [
        [(1 - skip) * 2 / 4, (1 - skip) * 2 / 4, skip, 0],
        [0, (1 - skip) * 7 / 10, (1 - skip) * 3 / 10, skip],
        [0, 0, 2 / 5, 3 / 5],
        [0, 0, 0, 1],
    ]
    np.testing.assert_allclose(np.exp(order.log_transition), expected, atol=1e-12)
    np.testing.assert_allclose(np.exp(order.log_initial), [2 / 6, 2 / 6, 1 / 6, 1 / 6])


def test_skips_are_rare_and_nothing_goes_back(order: LevelOrder) -> None:
    moves = np.exp(order.log_transition)
    assert not moves[np.tril_indices(K + 2, -1)].any()
    assert not moves[np.triu_indices(K + 2, 3)].any()
    np.testing.assert_allclose(np.diag(moves, 2), hmm.SKIP)
    np.testing.assert_allclose(moves.sum(axis=1), 1)


def test_the_network_is_mostly_right(order: LevelOrder) -> None:
    confusion = np.exp(order.log_confusion)
    np.testing.assert_allclose(confusion.sum(axis=1), 1)
    assert confusion.argmax(axis=1).tolist() == list(range(K + 2))
    given_a_name = confusion[1:, 1:] / confusion[1:, 1:].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(given_a_name[3, 2:5], [hmm.NEIGHBOUR, hmm.OWN, hmm.NEIGHBOUR])
    assert given_a_name[3, 5] < hmm.NEIGHBOUR / 4


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="No label map"):
        LevelOrder.fit([np.zeros((3, 2, 2), dtype=np.uint8)])


def test_an_order_goes_through_strict_json(order: LevelOrder) -> None:
    text = json.dumps(order.to_dict(), allow_nan=False)
    back = LevelOrder.from_dict(json.loads(text))
    assert back.levels == K
    for name in ("log_initial", "log_transition", "log_confusion"):
        np.testing.assert_array_equal(getattr(back, name), getattr(order, name))


@pytest.mark.parametrize(
    "change",
    [
        {"log_initial": [0.0]},
        {"log_initial": None},
        {"log_initial": [0.0] * 9},
        {"log_initial": [float("nan")] * 9},
        {"log_transition": [[0.0, 0.0], [0.0]]},
        {"log_transition": [[0.0] * 8] * 9},
        {"log_confusion": [["a"] * 9] * 9},
        {"log_confusion": [[0.0, *[None] * 8]] * 9},
    ],
)
def test_an_order_that_does_not_fit_is_refused(order: LevelOrder, change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointInvalid):
        LevelOrder.from_dict({**order.to_dict(), **change})


def test_an_order_with_a_part_missing_is_refused(order: LevelOrder) -> None:
    content = order.to_dict()
    del content["log_transition"]
    with pytest.raises(CheckpointInvalid, match="log_transition"):
        LevelOrder.from_dict(content)


def test_a_profile_is_shares_of_the_mass() -> None:
    probabilities = np.zeros((4, 2, 3, 4), dtype=np.float32)
    probabilities[0] = 1
    probabilities[2, 1, :2, :3] = 1  # six voxels of level 2
    probabilities[3, 1, 2, :2] = 0.5  # one of the class below
    np.testing.assert_allclose(hmm.slice_profile(probabilities), [[1, 0, 0, 0], [0.3, 0, 0.6, 0.1]])


def test_emission_is_the_mean_log_confusion(order: LevelOrder) -> None:
    profile = np.zeros((1, K + 2))
    profile[0, [3, 4]] = 0.75, 0.25
    expected = 0.75 * order.log_confusion[:, 3] + 0.25 * order.log_confusion[:, 4]
    np.testing.assert_allclose(hmm.log_emission(profile, order)[0], hmm.SLICE_WEIGHT * expected)


def test_seams_are_where_slices_share_least() -> None:
    foreground = np.zeros((6, 2, 4), dtype=bool)
    foreground[1:3, 0] = True
    foreground[3:5, :, 0] = True
    # Shares with the slice before: 0, all four, one of four, both; 0 after the end.
    share = np.array([0, 1, 0.25, 1, 0])
    np.testing.assert_allclose(hmm.seams(foreground), [0, *(share.mean() - share)])
    assert not hmm.seams(np.zeros((3, 2, 2), dtype=bool)).any()


def ambiguous_profile() -> npt.NDArray[np.float64]:
    """Five slices of C3, ten of which nobody knows whether they are C4 or C5, five of C6."""
    profile = np.zeros((20, K + 2))
    profile[:5, 3] = profile[15:, 6] = 1
    profile[5:15, 4:6] = 0.5
    return profile


def test_heights_decide_where_names_do_not(order: LevelOrder) -> None:
    path, posterior = decode(ambiguous_profile(), np.zeros(20), order)
    assert path.tolist() == [3] * 5 + [4] * 5 + [5] * 5 + [6] * 5
    np.testing.assert_allclose(posterior.sum(axis=1), 1)


def test_a_seam_decides_between_likely_heights(order: LevelOrder) -> None:
    seam = np.zeros(20)
    seam[11] = 0.5
    path, _ = decode(ambiguous_profile(), seam, order)
    assert path[5:12].tolist() == [4] * 6 + [5]


def test_one_slice_is_judged_by_starts_and_names_alone(order: LevelOrder) -> None:
    profile = np.full((1, K + 2), 1 / (K + 2))
    _, posterior = decode(profile, np.zeros(1), order)
    expected = np.exp(order.log_initial + hmm.log_emission(profile, order)[0])
    np.testing.assert_allclose(posterior[0], expected / expected.sum())


@pytest.mark.parametrize("overlap", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_right_map_stays_as_it_is(order: LevelOrder, seed: int, overlap: int) -> None:
    labels = random_neck(seed, overlap=overlap)
    mended = mend(labels, order)
    np.testing.assert_array_equal(mended.labels, labels)
    assert mended.labels.dtype == np.uint8
    # The posterior may take a little of what the network is certain of.
    assert (mended.confidence > 0.95 * CERTAIN).all()
    assert (mended.confidence <= CERTAIN + 1e-6).all()


def test_arches_that_hang_beside_the_next_body_change_no_name() -> None:
    labels = neck((4, 7, 4, 4, 4, 4, 4), overlap=3)
    np.testing.assert_array_equal(mend(labels, LevelOrder.fit([labels] * 10)).labels, labels)


def test_path_and_posterior_are_in_the_order_of_z(order: LevelOrder) -> None:
    labels = neck(overlap=0)
    mended = mend(labels, order)
    assert mended.path.shape == (len(labels),)
    assert mended.posterior.shape == (len(labels), K + 2)
    assert (mended.path[0], mended.path[-1]) == (K + 1, 0)
    in_bodies = labels[:, 8, 10]
    assert (mended.path == in_bodies)[in_bodies > 0].all()
    assert (mended.posterior.argmax(axis=1) == in_bodies)[in_bodies > 0].all()


@pytest.mark.parametrize("inside", [0, 2])
def test_a_field_of_view_that_begins_at_c3(order: LevelOrder, inside: int) -> None:
    labels = neck((5, 5, 5, 5, 5), first=3, above=0)
    labels = labels[: len(labels) - inside]
    mended = mend(labels, order)
    np.testing.assert_array_equal(mended.labels, labels)
    assert mended.path[-1] == 3
    assert (mended.confidence > 0).tolist() == [False] * 2 + [True] * 5


@pytest.mark.parametrize("inside", [0, 2])
def test_a_field_of_view_that_ends_at_c5(order: LevelOrder, inside: int) -> None:
    labels = neck((4, 8, 5, 5, 5), below=0)[inside:]
    mended = mend(labels, order)
    np.testing.assert_array_equal(mended.labels, labels)
    assert mended.path[0] == 5
    assert (mended.confidence > 0).tolist() == [True] * 5 + [False] * 2


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("level", [2, 4, 6])
def test_swapped_vertebrae_get_their_names_back(
    order: LevelOrder, level: int, seed: int, overlap: int
) -> None:
    labels = random_neck(seed, overlap=overlap)
    wrong = labels.copy()
    wrong[labels == level], wrong[labels == level + 1] = level + 1, level
    mended = mend(wrong, order)
    np.testing.assert_array_equal(mended.labels, labels)
    swapped = np.isin(np.arange(1, K + 1), [level, level + 1])
    assert (mended.confidence[swapped] <= 0.5).all()
    assert (mended.confidence[swapped] > 0.1).all()
    assert (mended.confidence[~swapped] > 0.9 * CERTAIN).all()


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("seed", range(6))
def test_a_half_that_was_named_for_the_next_comes_back(order: LevelOrder, seed: int, overlap: int) -> None:
    labels = random_neck(seed, overlap=overlap)
    wrong = labels.copy()
    first, end = extent(labels, 2)
    lower = slice(first, (first + end) // 2)
    wrong[lower][labels[lower] == 2] = 3
    mended = mend(wrong, order)
    # Where the half touches C3 it is cut by slices: the arch that hangs beside C3's body goes with C3.
    right = [(mended.labels == labels)[labels == level].mean() for level in (2, 3)]
    assert min(right) == 1 if overlap == 0 else min(right) > 0.85
    assert 0.5 < mended.confidence[1] < 0.9


@pytest.mark.parametrize("level", [2, 5, 7])
@pytest.mark.parametrize("seed", range(4))
def test_two_vertebrae_under_one_name_are_parted(order: LevelOrder, level: int, seed: int) -> None:
    labels = random_neck(seed)
    wrong = np.where(labels == level, level + 1, labels)
    mended = mend(wrong, order)
    for name in (level, level + 1):
        assert (mended.labels == labels)[labels == name].mean() > 0.85
    assert 0 < mended.confidence[level - 1] <= 0.5


def test_a_broken_c2_stays_in_both_pieces(order: LevelOrder) -> None:
    labels = neck(overlap=0)
    first, end = extent(labels, 2)
    labels[(first + end) // 2] = 0
    np.testing.assert_array_equal(mend(labels, order).labels, labels)


def test_a_second_c6_near_c1_is_dropped(order: LevelOrder) -> None:
    labels = neck()
    doubled = labels.copy()
    doubled[slice(*extent(labels, 1)), 6:13, 18:24] = 6
    mended = mend(doubled, order)
    np.testing.assert_array_equal(mended.labels, labels)
    assert mended.confidence[5] > 0.9


def test_a_second_c6_beside_c6_is_dropped_unless_it_is_near(order: LevelOrder) -> None:
    labels = neck()
    first, end = extent(labels, 6)
    doubled = labels.copy()
    doubled[first + 1 : end - 1, 6:13, 20:24] = 6  # five voxels, 15 mm, from C6
    np.testing.assert_array_equal(mend(doubled, order).labels, labels)
    near = labels.copy()
    near[first + 1 : end - 1, 6:13, 18:22] = 6  # three voxels, 9 mm
    np.testing.assert_array_equal(mend(near, order).labels, near)


def test_a_fragment_beside_the_next_vertebra_keeps_its_name(order: LevelOrder) -> None:
    labels = neck(overlap=0)
    _, end = extent(labels, 6)
    labels[end - 3 : end, 21:24, 10:14] = 5
    np.testing.assert_array_equal(mend(labels, order).labels, labels)


@pytest.mark.parametrize("level", range(1, K + 1))
@pytest.mark.parametrize("leave_gap", [True, False])
def test_a_missing_level_is_not_invented(order: LevelOrder, level: int, leave_gap: bool) -> None:
    labels = neck()
    if leave_gap:
        labels[labels == level] = 0
    else:
        heights = [4, 8, 5, 5, 4, 5, 6]
        above = neck(tuple(heights[: level - 1]), below=0, overlap=0)
        under = neck(tuple(heights[level:]), first=level + 1, above=0, overlap=0)
        labels = np.concatenate([under, above])
    mended = mend(labels, order)
    np.testing.assert_array_equal(mended.labels, labels)
    assert mended.confidence[level - 1] == 0
    assert (np.delete(mended.confidence, level - 1) > 0.5).all()


def test_of_levels_out_of_order_the_less_confident_is_dropped(order: LevelOrder) -> None:
    labels = neck(overlap=0)
    labels[labels == 5] = 0
    _, end = extent(labels, 4)
    wrong = labels.copy()
    wrong[end - 2 : end, 21:24, 10:14] = 5
    mended = mend(wrong, order)
    np.testing.assert_array_equal(mended.labels, labels)
    assert mended.confidence[4] == 0
    assert mended.confidence[3] > 0.9


def test_a_speck_is_removed_though_it_is_near(order: LevelOrder) -> None:
    labels = neck(overlap=0)
    first, _ = extent(labels, 5)
    specked = labels.copy()
    specked[first : first + 2, 21:23, 10:12] = 5
    np.testing.assert_array_equal(mend(specked, order).labels, labels)


def test_an_empty_map_gives_an_empty_result(order: LevelOrder) -> None:
    mended = mend(np.zeros((30, 8, 8), dtype=np.int64), order)
    assert not mended.labels.any()
    assert not mended.confidence.any()
    assert not mended.path.any()
    np.testing.assert_allclose(mended.posterior.sum(axis=1), 1)


def test_confidence_follows_the_networks_certainty(order: LevelOrder) -> None:
    labels = neck()
    certain, unsure = (relabel(labels, said(labels, p), order, SPACING).confidence for p in (1.0, 0.6))
    assert (certain > 0.97).all()
    np.testing.assert_allclose(unsure, 0.6 * certain, atol=0.03)


def test_confidence_falls_with_the_posterior(order: LevelOrder) -> None:
    labels = neck((4, 8, 4, 7, 4, 5, 6))
    wrong = np.where(np.isin(labels, [3, 4]), 7 - labels, labels)
    mended = mend(wrong, order)
    for level in (3, 4):
        shown = (mended.labels == level).any(axis=(1, 2)) & (mended.posterior.argmax(axis=1) == level)
        z = np.flatnonzero(shown)
        agreed = mended.posterior[z[len(z) // 2], level]
        assert agreed < 0.99
        assert mended.confidence[level - 1] == pytest.approx(hmm.MENDED * CERTAIN * agreed, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_noise_does_not_change_the_levels(order: LevelOrder, seed: int) -> None:
    labels = random_neck(seed)
    random = np.random.default_rng(seed)
    noisy = np.where(random.random(labels.shape) < 0.03, random.integers(0, K + 2, labels.shape), labels)
    mended = mend(noisy, order)
    untouched = noisy == labels
    for level in range(1, K + 2):
        assert (mended.labels == level)[untouched & (labels == level)].all()
    assert (mended.labels == labels)[labels == 0].mean() > 0.99
    assert (mended.confidence > 0.9).all()


def test_what_does_not_fit_is_refused(order: LevelOrder) -> None:
    labels = neck()
    with pytest.raises(ValueError, match="do not fit"):
        relabel(labels, said(labels)[:-1], order, SPACING)
    with pytest.raises(ValueError, match="Labels are"):
        relabel(np.full_like(labels, K + 2), said(labels), order, SPACING)
    probabilities = said(labels)
    probabilities[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        relabel(labels, probabilities, order, SPACING)
