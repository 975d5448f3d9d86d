from __future__ import annotations

import pytest

from rl_system.errors import one_line
from rl_system.settings import Settings
from rl_system.watch import ERRORS_IN_A_ROW, Watch


def test_an_actor_that_fails_again_and_again_ends_the_run_and_its_first_line_says_how() -> None:
    watch, failed = Watch(Settings()), "Traceback:\n  a line\nValueError: no light\n"
    watch.actor({"actor": 3, "error": failed})
    watch.actor({"actor": 3, "error": None})
    for _ in range(ERRORS_IN_A_ROW - 1):
        watch.actor({"actor": 3, "error": failed})
        watch.actor({"actor": 4, "error": None})
    with pytest.raises(RuntimeError) as ended:
        watch.actor({"actor": 3, "error": failed})
    assert one_line(ended.value) == (
        f"RuntimeError: Actor 3 failed {ERRORS_IN_A_ROW} times in a row, at last with "
        "ValueError: no light"
    )
    assert "a line" in str(ended.value)
