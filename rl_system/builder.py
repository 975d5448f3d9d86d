"""Settings put together by chained calls, with room for search spaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from rl_system.config import sections_of, settings_from_dict, settings_to_dict
from rl_system.errors import SettingsError
from rl_system.presets import merge
from rl_system.settings import Settings

# RLlib's training options and what says the same here; the others have no meaning here. {_rate} and
# {_clip} stand for the system's settings that end so.
INSTEAD = {
    "lr": ".learner({_rate})",
    "gamma": ".behavior(discount=...)",
    "grad_clip": ".learner({_clip})",
    "train_batch_size": ".learner(batch_size=..., sequence_length=...)",
    "train_batch_size_per_learner": ".learner(batch_size=..., sequence_length=...)",
    "num_epochs": ".learner(updates_per_agent_step=...)",
    "minibatch_size": ".learner(batch_size=...)",
    "model": ".model_settings(...)",
    "optimizer": ".learner({_rate})",
    "replay_buffer_config": ".replay(...)",
}


class SettingsBuilder:
    """Holds the sections of a configuration as plain values until they are resolved.

    Attributes:
        system: What it configures: `run.system`.
        settings: Section -> key -> value, only what differs from the system's defaults. A value may
            be anything, such as a search space, until `resolved` is called.
        directory: See `from_settings`.
        run_name: See `from_settings`.
    """

    system: ClassVar[str]
    settings: dict[str, dict[str, Any]]
    directory: str | None
    run_name: str | None

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        directory: str | Path | None = None,
        run_name: str | None = None,
    ) -> Self:
        """Returns the configuration of a complete `Settings`.

        `directory` will hold the snapshots of replay that checkpoints name and crashed shards go
        back to. It belongs to this run alone (in a Tune experiment each trial has a folder in it).
        On a cluster all machines that have shards must share it. Without one, a Tune trial uses its
        own folder of the experiment's storage; elsewhere every checkpoint holds its snapshot.

        `run_name` is what the run is called in Ray, the same when it is started again: a run whose
        driver was killed then finds its living shards. It must be no other run's. Default: the Tune
        trial's; elsewhere a new one each time.
        """
        if not isinstance(settings, Settings):
            raise SettingsError(
                f"from_settings takes settings, not {settings!r}: load a preset with "
                "rl_system.config.load_settings first."
            )
        config = cls()
        config.settings = settings_to_dict(settings)
        config.check_system(settings)
        config.directory = None if directory is None else str(directory)
        config.run_name = run_name
        return config

    def resolved(self) -> Settings:
        """Returns the typed settings.

        Raises:
            SettingsError: an unknown section or key (names the nearest), a value of a wrong type,
                or values that do not fit each other.
        """
        return settings_from_dict(self.settings)

    def check_system(self, settings: Settings) -> None:
        """Checks that settings are of this configuration's system.

        Raises:
            SettingsError: They are of another.
        """
        if settings.run.system != self.system:
            raise SettingsError(
                f"{type(self).__name__} configures run.system={self.system}, and these settings "
                f"are of {settings.run.system}: use rl_system.algorithm.CONFIGS["
                f"{settings.run.system!r}]."
            )

    def settings_update(self, **sections: Mapping[str, Any]) -> Self:
        """Changes values of sections: `settings_update(learner={"batch_size": 16}, replay={...})`.

        Sections: environment, actors, replay, model, objective, behavior, learner, evaluation, run.
        Keys are checked when the algorithm is built.
        """
        self.settings = merge(self.settings, {k: dict(v) for k, v in sections.items()})
        return self

    def training(self, **values: Any) -> Self:
        """Refuses RLlib's training options, which would have no effect.

        Raises:
            SettingsError: names what to call instead.
        """
        known = {
            ending: ", ".join(f"{item.name}=..." for item in self._learner_fields(ending))
            for ending in ("_rate", "_clip")
        }
        for name in values:
            instead = INSTEAD.get(name, "").format(**known)
            say = (
                f"use {instead}"
                if instead
                else "see `rl-system train --settings` for what there is"
            )
            raise SettingsError(f"training({name}=...) has no effect here: {say}.")
        return self

    def model_settings(self, **values: Any) -> Self:
        """Changes values of the system's section `model`."""
        return self.settings_update(model=values)

    def objective(self, **values: Any) -> Self:
        """Changes values of the system's section `objective`."""
        return self.settings_update(objective=values)

    def behavior(self, **values: Any) -> Self:
        """Changes values of the system's section `behavior`."""
        return self.settings_update(behavior=values)

    def learner(self, **values: Any) -> Self:
        """Changes values of the system's section `learner`."""
        return self.settings_update(learner=values)

    def replay(self, **values: Any) -> Self:
        """Changes values of `replay.settings.ReplaySettings`."""
        return self.settings_update(replay=values)

    def _learner_fields(self, ending: str) -> list[Field[Any]]:
        learner = sections_of(self.system)["learner"]
        return [item for item in fields(learner) if item.name.endswith(ending)]


def split_values(values: dict[str, Any], section: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits `values` into those that are fields of a section and the others."""
    names = {field.name for field in fields(section)}
    own = {key: value for key, value in values.items() if key in names}
    return own, {key: value for key, value in values.items() if key not in names}
