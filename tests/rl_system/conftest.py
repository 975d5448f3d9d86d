"""What the tests of whole runs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def short_slices() -> Iterator[None]:
    """The learner is asked oftener than else to go on: it reports and comes to rest sooner."""
    import rl_system.algorithm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl_system.algorithm, "LEARNER_SLICE_S", 0.5)
        yield
