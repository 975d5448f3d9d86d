"""What an environment looks like: the `environment` section of a configuration."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

# none; the three levels of the Distracting Control Suite; background videos alone (2 or all 60 to
# train on: "pse" and "hard_bg" of CoRe's code); CVRL's Natural MuJoCo; and robosuite's
# randomisation of every episode's colours, lights and cameras.
DIFFICULTIES = (
    "none",
    "easy",
    "medium",
    "hard",
    "background2",
    "background60",
    "natural",
    "randomized",
)
NATURAL_MASKS = ("threshold", "segmentation", "sky")
VIEWS = ("wide", "square")
DISTRACTIONS = ("background", "camera", "color")
QUALITIES = ("exact", "paper", "fast")
ROBOSUITE_SIMULATORS = ("actor", "process")


@dataclass(frozen=True)
class EnvironmentSettings:
    """Task, picture and distractions; the defaults are CoRe's clean cheetah at the paper's size.

    Time: one simulator step is one control step of the task. One agent step repeats its action for
    `action_repeat` simulator steps. Distractions tick once per simulator step (a video moves on by
    `action_repeat` frames per agent step), the picture is drawn once per agent step.

    Raises:
        ValueError: a value is outside its range; the message names the field and what it may be.
    """

    # what to train on, dcs/<domain>-<task> or robosuite/door-<robot>; `rl-system envs` lists them
    name: str = "dcs/cheetah-run"
    # simulator steps per agent step; null: the task's value in the paper (natural: 2)
    action_repeat: int | None = None
    # height and width of an observation in pixels (before the learner's crop)
    image_size: int = 100
    # none, easy, medium, hard, background2, background60, natural; robosuite: none, randomized
    difficulty: str = "none"
    # range of camera and colours in place of the level's (easy 0.1, medium 0.2, hard 0.3), 0 to 1
    intensity: float | None = None
    # distractions move during an episode; false: they only change between episodes
    dynamic: bool = True
    distractions: tuple[str, ...] = DISTRACTIONS  # which of background, camera and color are on
    # background videos: "procedural", a folder (DAVIS, ILSVRC-VID, Kinetics, any), or built frames
    videos: str = "procedural"
    # text file that says which videos are to train on and which held out; null: by the layout
    videos_split: str | None = None
    # use the first n videos; null: 4 easy, 8 medium, 2 background2 (held out: all), else all
    num_videos: int | None = None
    background_blend: float = 1.0  # weight of the video over the original sky, 0 to 1 (paper: 1)
    # what the video of "natural" replaces: threshold (red <= 100, as CVRL's code), segmentation
    # (all but the robot and its objects) or sky (only the sky, in the scene)
    natural_mask: str = "threshold"
    # wide: 320 x 240 squeezed into a square (Distracting Control Suite, CoRe); square: the middle
    # of it (PlaNet, Dreamer, CVRL); null: square for natural, else wide
    view: str | None = None
    # opacity of the floor; null: reacher 0, walker/cheetah 1, others 0.3
    ground_alpha: float | None = None
    proprioception: bool = False  # joints and gripper beside the picture (robosuite only)
    # exact: as published; paper: under 1 grey level off and faster; fast: no shadows
    quality: str = "paper"
    gl: str = "auto"  # OpenGL library: auto, egl or osmesa
    # index of the EGL device that draws; null: the first that works
    render_device: int | None = None
    # Python that has robosuite; null: RL_SYSTEM_ROBOSUITE_PYTHON, else what `make robosuite` built
    robosuite_python: str | None = None
    # where robosuite simulates: actor (in the actors, which that Python then runs), or process (one
    # of that Python beside each environment of an actor, which the main Python runs)
    robosuite_simulator: str = "actor"

    def __post_init__(self) -> None:
        _check_types(self)
        _choose("difficulty", self.difficulty, DIFFICULTIES)
        _choose("quality", self.quality, QUALITIES)
        _choose("natural_mask", self.natural_mask, NATURAL_MASKS)
        _choose("robosuite_simulator", self.robosuite_simulator, ROBOSUITE_SIMULATORS)
        if self.view is not None:
            _choose("view", self.view, VIEWS)
        for distraction in self.distractions:
            _choose("distractions", distraction, DISTRACTIONS)
        if self.action_repeat is not None and self.action_repeat < 1:
            raise ValueError(
                f"environment.action_repeat is {self.action_repeat}; it must be 1 or more."
            )
        if not 8 <= self.image_size <= 480:
            raise ValueError(
                f"environment.image_size is {self.image_size}; it must be 8 to 480 pixels."
            )
        if not 0.0 <= self.background_blend <= 1.0:
            raise ValueError(
                f"environment.background_blend is {self.background_blend}; it must be 0 to 1."
            )
        if self.ground_alpha is not None and not 0.0 <= self.ground_alpha <= 1.0:
            raise ValueError(f"environment.ground_alpha is {self.ground_alpha}; it must be 0 to 1.")
        if self.intensity is not None:
            if not 0.0 <= self.intensity <= 1.0:
                raise ValueError(f"environment.intensity is {self.intensity}; it must be 0 to 1.")
            if self.difficulty not in ("easy", "medium", "hard"):
                raise ValueError(
                    f"environment.intensity is {self.intensity}, which replaces the range of easy, "
                    f"medium or hard, and environment.difficulty is {self.difficulty}: choose one "
                    "of those."
                )
        if self.num_videos is not None and self.num_videos < 0:
            raise ValueError(f"environment.num_videos is {self.num_videos}; it must be 0 or more.")


def _check_types(settings: EnvironmentSettings) -> None:
    for field in dataclasses.fields(settings):
        value, kinds = getattr(settings, field.name), str(field.type).split(" | ")
        fits = {
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": isinstance(value, int | float) and not isinstance(value, bool),
            "None": value is None,
            "tuple[str, ...]": isinstance(value, tuple | list)
            and all(isinstance(entry, str) for entry in value),
        }
        if not any(fits[kind] for kind in kinds):
            raise ValueError(
                f"environment.{field.name} is {value!r}; it must be {' or '.join(kinds)}."
            )


def view_of(settings: EnvironmentSettings) -> str:
    """Returns the view of these settings, that of the papers unless they say it."""
    return settings.view or ("square" if settings.difficulty == "natural" else "wide")


def _choose(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"environment.{field} has {value!r}; choose from {', '.join(allowed)}.")
