"""The whole configuration: nine typed sections, and the rules that hold between them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from actors.environments.catalog import Entry, UnknownEnvironment, find
from actors.environments.settings import DIFFICULTIES, EnvironmentSettings
from actors.settings import ActorSettings
from learners.sections import (
    PRIORITISED_SYSTEMS,
    SYSTEM_MISFITS,
    SYSTEM_SECTIONS,
    AnyBehaviorSettings,
    AnyLearnerSettings,
    AnyModelSettings,
    AnyObjectiveSettings,
)
from learners.settings import BehaviorSettings, LearnerSettings, ModelSettings, ObjectiveSettings
from replay.settings import ReplaySettings
from replay.workload import Workload
from rl_system.errors import SettingsError

# Text fields with a fixed set of values, for the rooms that state theirs only in a comment.
CHOICES: dict[str, tuple[str, ...]] = {
    "evaluation.split": ("train", "held_out"),
    "evaluation.difficulty": DIFFICULTIES,
    "evaluation.distracted_twin": DIFFICULTIES,
    "environment.gl": ("auto", "egl", "osmesa"),
}


@dataclass(frozen=True)
class EvaluationSettings:
    """How the policy is measured: its own episodes, its own seeds, its own background videos."""

    episodes: int = 5  # episodes of one evaluation during training
    every_agent_steps: int | None = 10_000  # agent steps between evaluations; null: only at the end
    final_episodes: int = 20  # episodes of the evaluation at the end of the run; 0: none
    split: str = "held_out"  # background videos: "held_out" (never trained on) or "train"
    explore: bool = False  # act as in training, noise included; false: as well as it can
    difficulty: str | None = None  # difficulty to measure at; null: the one trained on
    distracted_twin: str | None = None  # at the end measure at this difficulty as well; null: not
    parallel_episodes: int = 5  # episodes that one process steps side by side, as one batch
    trivial_episodes: int = 20  # episodes of each trivial policy (random, zero, ...); 0: none
    video_seconds: float = 10.0  # length of the film of the final evaluation; 0: no film
    video_size: int = 240  # height and width of the film, pixels
    timeout_s: float = 900.0  # deadline of an evaluation; the final one keeps the episodes played


@dataclass(frozen=True)
class RunSettings:
    """What one run is: its seed, its limits (the first one reached ends it), what it leaves."""

    system: str = "core"  # what is trained; the model, objective, behavior and learner of that name
    seed: int = 0  # the root from which every process derives its own seed
    deterministic: bool = False  # actor and learner take turns, so that a run repeats (one actor)
    directory: str = "runs"  # folder in which the run directory is made
    name: str | None = None  # name of the run directory; null: task, seed and time
    max_agent_steps: int | None = None  # agent steps; null: no limit
    max_simulator_steps: int | None = None  # physics control steps; null: no limit
    max_updates: int | None = None  # learner updates; null: no limit
    max_minutes: float | None = None  # minutes of training, without the end's evaluation; null: off
    iteration_s: float = 5.0  # seconds of training between two lines of metrics
    checkpoint_minutes: float = 10.0  # minutes between checkpoints; 0: only the one at the end
    keep_checkpoints: int = 2  # newest checkpoints kept
    report: bool = True  # write report.html at the end
    tensorboard: bool = True  # write the metrics for TensorBoard as well
    address: str | None = None  # running Ray cluster, "auto" or its address; null: one of its own
    dashboard_port: int | None = None  # port of Ray's dashboard in its own Ray; null: no dashboard
    num_cpus: int | None = None  # CPUs that Ray may count on; null: what the run needs, at least
    object_store_mb: int | None = None  # Ray's store for weights and replies; null: computed
    startup_timeout_s: float = 300.0  # deadline for Ray and all processes to stand


@dataclass(frozen=True)
class Settings:
    """Everything a run is made of. One resolved file of it reruns the run.

    `model`, `objective`, `behavior` and `learner` are those of `run.system`. Made without
    arguments it is CoRe at the paper's size on clean pictures; `config.settings_from_dict` makes it
    of a system's name.
    """

    environment: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    actors: ActorSettings = field(default_factory=ActorSettings)
    replay: ReplaySettings = field(default_factory=ReplaySettings)
    model: AnyModelSettings = field(default_factory=ModelSettings)
    objective: AnyObjectiveSettings = field(default_factory=ObjectiveSettings)
    behavior: AnyBehaviorSettings = field(default_factory=BehaviorSettings)
    learner: AnyLearnerSettings = field(default_factory=LearnerSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    run: RunSettings = field(default_factory=RunSettings)

    @property
    def action_repeat(self) -> int:
        """Simulator steps of one agent step: the setting's, else the task's.

        Raises:
            SettingsError: the task is unknown.
        """
        return self._entry().repeat(self.environment)

    @property
    def episode_agent_steps(self) -> int:
        """Agent steps of one whole episode.

        Raises:
            SettingsError: the task is unknown.
        """
        return -(-self._entry().episode_simulator_steps // self.action_repeat)

    @property
    def proprioception_size(self) -> int:
        """Numbers beside each picture; 0 where `environment.proprioception` is off.

        Raises:
            SettingsError: the task is unknown.
        """
        return self._entry().proprioception_dims if self.environment.proprioception else 0

    @property
    def samples_per_insert(self) -> float:
        """Agent steps trained on per agent step stored: what the replay limiter holds."""
        learner = self.learner
        return learner.updates_per_agent_step * learner.batch_size * learner.sequence_length

    @property
    def workload(self) -> Workload:
        """The traffic through replay."""
        learner, actors = self.learner, self.actors
        return Workload(
            # In lock step the conductor keeps the ratio itself.
            samples_per_insert=None if self.run.deterministic else self.samples_per_insert,
            batch_length=learner.sequence_length,
            batch_size=learner.batch_size // max(1, learner.count),  # each has its part
            readers=max(1, learner.count),
            writers=actors.count,
            environments_per_writer=actors.environments_per_actor,
            chunk_length=actors.chunk_agent_steps,
        )

    def validate(self) -> Settings:
        """Check what holds between fields and return these settings.

        Raises:
            SettingsError: two fields do not fit; the message names both and what to do. All
                problems found are listed.
        """
        problems = self._wrong_system()
        if problems:
            raise SettingsError("\n".join(problems))
        problems = [
            *self._wrong_choices(),
            *self._wrong_environment(),
            *self._wrong_shapes(),
            *self._wrong_pace(),
        ]
        if problems:
            raise SettingsError("\n".join(problems))
        return self

    def _entry(self) -> Entry:
        try:
            return find(self.environment.name)
        except UnknownEnvironment as error:
            raise SettingsError(f"environment.name: {error}") from error

    def _wrong_system(self) -> list[str]:
        system = self.run.system
        return [
            f"{name} is {type(getattr(self, name)).__name__}, and run.system={system} takes "
            f"{kind.__name__}: set both, or make settings with rl_system.config.settings_from_dict."
            for name, kind in sections_of(system).items()
            if not isinstance(getattr(self, name), kind)
        ]

    def _wrong_choices(self) -> list[str]:
        problems = []
        for path, allowed in CHOICES.items():
            section, key = path.split(".")
            value = getattr(getattr(self, section), key, None)
            if value is not None and value not in allowed:
                problems.append(f"{path} is {value!r}; choose from {', '.join(allowed)}.")
        return problems

    def _wrong_environment(self) -> list[str]:
        problems = []
        entry, allowed = self._entry(), self._entry().difficulties
        for path, level in {
            "environment.difficulty": self.environment.difficulty,
            "evaluation.difficulty": self.evaluation.difficulty,
            "evaluation.distracted_twin": self.evaluation.distracted_twin,
        }.items():
            if level in DIFFICULTIES and level not in allowed:
                problems.append(
                    f"{path} is {level!r}, which {entry.name} does not have; choose from "
                    f"{', '.join(allowed)}."
                )
        if self.environment.proprioception and not entry.proprioception_dims:
            problems.append(
                f"environment.proprioception is true and {entry.name} shows pictures alone: set it "
                "to false, or choose a robosuite task."
            )
        return problems

    def _wrong_shapes(self) -> list[str]:
        problems = []
        crop, image = self.learner.crop_size, self.environment.image_size
        if crop > image:
            problems.append(
                f"learner.crop_size ({crop}) is larger than environment.image_size ({image}): "
                "lower the first or raise the second."
            )
        if self.learner.random_crop and crop == image:
            problems.append(
                "learner.random_crop=true has no effect where learner.crop_size and "
                f"environment.image_size are both {crop}: raise environment.image_size above "
                "learner.crop_size, or set learner.random_crop=false."
            )
        if self.model.side_left(crop) < 1:
            problems.append(
                f"The convolutions leave nothing of a {crop} x {crop} crop: raise "
                "learner.crop_size, or lower model.conv_strides or model.conv_kernels."
            )
        problems += SYSTEM_MISFITS[self.run.system](
            self.model, self.objective, self.behavior, self.learner, image
        )
        length, episode = self.learner.sequence_length, self.episode_agent_steps
        if length > episode:
            problems.append(
                f"learner.sequence_length ({length}) is longer than an episode ({episode} agent "
                f"steps: {self._entry().episode_simulator_steps} simulator steps at action repeat "
                f"{self.action_repeat}): no window fits. Lower it or environment.action_repeat."
            )
        return problems

    def _wrong_pace(self) -> list[str]:
        problems = []
        learner, replay = self.learner, self.replay
        for path, value in {
            "evaluation.parallel_episodes": self.evaluation.parallel_episodes,
            "evaluation.episodes": self.evaluation.episodes,
            "run.iteration_s": self.run.iteration_s,
            "run.keep_checkpoints": self.run.keep_checkpoints,
            "actors.count": self.actors.count,
        }.items():
            if value <= 0:
                problems.append(f"{path} is {value}; it must be above 0.")
        if replay.sampler == "prioritised" and self.run.system not in PRIORITISED_SYSTEMS:
            problems.append(
                f"replay.sampler is prioritised, and {self.run.system} gives no priorities: choose "
                "another, such as episodes."
            )
        if learner.mirror_replay and replay.compression != "none":
            problems.append(
                f"learner.mirror_replay needs steps as they are, but replay.compression is "
                f"{replay.compression}: set it to none, or learner.mirror_replay to false."
            )
        shards = replay.on_nodes(1).shards  # on more nodes there may be more, checked there
        if replay.minimum_agent_steps < learner.sequence_length * shards:
            problems.append(
                f"replay.minimum_agent_steps ({replay.minimum_agent_steps}) is below one window "
                f"of learner.sequence_length ({learner.sequence_length}) for each of "
                f"{shards} shards: set it to "
                f"{learner.sequence_length * shards} or more."
            )
        if replay.capacity_agent_steps < 2 * self.episode_agent_steps * shards:
            problems.append(
                f"replay.capacity_agent_steps ({replay.capacity_agent_steps}) is below two "
                f"episodes ({self.episode_agent_steps} agent steps each) in each of "
                f"{shards} shards: raise it, or lower replay.shards."
            )
        if self.run.deterministic and replay.checkpoint == "none":
            problems.append(
                "run.deterministic=true goes on exactly where it was, which replay.checkpoint=none "
                "cannot: set replay.checkpoint=reference."
            )
        if self.run.deterministic and learner.count > 1:
            problems.append(
                f"run.deterministic=true repeats a run only with one learner, and learner.count is "
                f"{learner.count}: set it to 1."
            )
        if self.run.deterministic and (
            self.actors.count != 1 or self.actors.environments_per_actor != 1
        ):
            problems.append(
                "run.deterministic=true repeats a run only with one actor and one environment: "
                "set actors.count=1 and actors.environments_per_actor=1."
            )
        return problems


def sections_of(system: str) -> dict[str, type]:
    """Return the types of all sections of a system, by name, in their order.

    Raises:
        SettingsError: There is no such system.
    """
    if not isinstance(system, str) or system not in SYSTEM_SECTIONS:
        raise SettingsError(f"run.system is {system!r}; choose from {', '.join(SYSTEM_SECTIONS)}.")
    default = Settings()
    common = {item.name: type(getattr(default, item.name)) for item in fields(default)}
    return common | SYSTEM_SECTIONS[system]
