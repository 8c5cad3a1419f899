"""Which levels are fractured, and the planes of their fractures."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from spine_etl.phantom.anatomy import CERVICAL
from spine_etl.phantom.fractures import choose_levels, make_cut
from spine_etl.phantom.scanner import fully_visible_levels


def test_about_half_of_the_studies_are_positive() -> None:
    positive = Counter()
    levels: Counter[str] = Counter()
    for seed in range(3):
        for index in range(200):
            chosen = choose_levels(
                np.random.default_rng([seed, index]), seed, index, fully_visible_levels(index)
            )
            assert len(chosen) <= 3
            assert list(chosen) == sorted(set(chosen))
            positive[seed] += bool(chosen)
            levels.update(chosen)
    assert all(0.44 <= count / 200 <= 0.50 for count in positive.values())
    assert set(levels) == set(CERVICAL)
    assert min(levels[level] for level in ("C2", "C5", "C6", "C7")) > max(
        levels[level] for level in ("C3", "C4")
    )


@pytest.mark.parametrize("level", CERVICAL)
def test_cut_is_a_plane_through_its_centre(level: str) -> None:
    """Three kinds: a lucent line moves nothing, a step slides in its plane, a fragment leaves a gap."""
    scale, kinds = 0.95, set()
    for seed in range(40):
        cut = make_cut(np.random.default_rng(seed), level, scale)
        active, normal, offset, move = cut[0], cut[1:4], cut[4], cut[5:8]
        gap, half_width, centre, radius = cut[8], cut[9], cut[10:13], cut[13]
        assert active == 1
        assert np.linalg.norm(normal) == pytest.approx(1)
        assert normal @ centre == pytest.approx(offset)
        if gap:
            kinds.add("fragment")
            assert 2.4 <= gap <= 3.6
            assert move @ normal == pytest.approx(gap)  # torn off by the gap
            assert half_width == 0
        elif move.any():
            kinds.add("step")
            assert move @ normal == pytest.approx(0, abs=1e-9)
            assert 3.0 <= np.linalg.norm(move) <= 4.2
            assert 0.6 <= half_width <= 0.9
        else:
            kinds.add("line")
            assert 0.9 <= half_width <= 1.3
            assert radius <= 13 * scale
    assert {"line", "fragment"} <= kinds
    assert ("step" in kinds) == (level != "C1")


def test_fractures_are_on_both_sides() -> None:
    centres = [make_cut(np.random.default_rng(seed), "C5", 1.0)[10] for seed in range(60)]
    assert min(centres) < -8
    assert max(centres) > 8
