"""Settings put together by chained calls, with room for search spaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from rl_system.config import settings_from_dict
from rl_system.presets import merge
from rl_system.settings import Settings


class SettingsBuilder:
    """Holds the sections of a configuration as plain values until they are resolved.

    Attributes:
        settings: Section -> key -> value, only what differs from the defaults. A value may be
            anything, such as a search space, until `resolved` is called.
    """

    settings: dict[str, dict[str, Any]]

    def resolved(self) -> Settings:
        """Returns the typed settings.

        Raises:
            SettingsError: an unknown section or key (names the nearest), a value of a wrong type,
                or values that do not fit each other.
        """
        return settings_from_dict(self.settings)

    def settings_update(self, **sections: Mapping[str, Any]) -> Self:
        """Changes values of sections: `settings_update(learner={"batch_size": 16}, replay={...})`.

        Sections: environment, actors, replay, model, objective, behavior, learner, evaluation, run.
        Keys are checked when the algorithm is built.
        """
        self.settings = merge(self.settings, {k: dict(v) for k, v in sections.items()})
        return self

    def model_settings(self, **values: Any) -> Self:
        """Changes values of `learners.settings.ModelSettings`."""
        return self.settings_update(model=values)

    def objective(self, **values: Any) -> Self:
        """Changes values of `learners.settings.ObjectiveSettings`."""
        return self.settings_update(objective=values)

    def behavior(self, **values: Any) -> Self:
        """Changes values of `learners.settings.BehaviorSettings`."""
        return self.settings_update(behavior=values)

    def learner(self, **values: Any) -> Self:
        """Changes values of `learners.settings.LearnerSettings`."""
        return self.settings_update(learner=values)

    def replay(self, **values: Any) -> Self:
        """Changes values of `replay.settings.ReplaySettings`."""
        return self.settings_update(replay=values)
