"""Measuring a policy: whole episodes of its own, with seeds and videos that training never uses."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from actors.environments.catalog import find, make_environment
from actors.environments.settings import view_of
from actors.worker import observation_fields, stack_observations
from replay.seeds import seed_for
from rl_system.errors import RunError
from rl_system.tally import standard_error

if TYPE_CHECKING:
    from actors.environments.interface import Observation, PixelEnvironment
    from actors.environments.settings import EnvironmentSettings
    from actors.worker import Policy
    from rl_system.settings import Settings

logger = logging.getLogger(__name__)

_MAX_FRAMES_PER_S = 50.0


@dataclass(frozen=True)
class EvaluationResult:
    """Undiscounted returns of whole episodes."""

    returns: tuple[float, ...]  # one per episode, in the order in which episodes began
    agent_steps: int  # agent steps of all episodes
    difficulty: str  # of the distractions that were shown
    split: str  # "train" or "held_out" videos
    video: Path | None = None  # the film of the first episode, if one was asked for

    @property
    def mean(self) -> float:
        """Mean return over episodes."""
        return float(np.mean(self.returns))

    @property
    def se(self) -> float:
        """Standard error of the mean over episodes; 0 for one episode, which has none."""
        return standard_error(self.returns)

    def metrics(self) -> dict[str, float]:
        """Return the plain numbers that become `eval/...`."""
        return {
            "return_mean": self.mean,
            "return_se": self.se,
            "return_min": float(min(self.returns)),
            "return_max": float(max(self.returns)),
            "episodes": len(self.returns),
        }

    def __str__(self) -> str:
        count, shown = len(self.returns), f"difficulty {self.difficulty}"
        if self.difficulty != "none":  # else there are no videos
            shown += f", {self.split} videos"
        if count == 1:
            return f"{self.mean:.1f} (one episode, so no standard error; {shown})"
        return f"{self.mean:.1f} ± {self.se:.1f} (mean ± s.e. of {count} episodes, {shown})"


def evaluate(
    policy: Policy,
    settings: Settings,
    split: Literal["train", "held_out"] | None = None,
    episodes: int | None = None,
    seed: int | None = None,
    video_path: str | Path | None = None,
    *,
    difficulty: str | None = None,
    explore: bool | None = None,
    timeout_s: float | None = None,
) -> EvaluationResult:
    """Plays whole episodes in this process and returns their returns.

    The same policy, settings and seed give the same returns. Seeds of environments derive from
    `seed` under names that no actor uses.

    Args:
        policy: Follows `actors.worker.Policy`; acts on up to `evaluation.parallel_episodes`
            environments at once.
        settings: Task and picture; None below means what its section `evaluation` says.
        split: Which background videos are shown.
        episodes: How many episodes, 1 or more.
        seed: Root of the seeds; None is the run's.
        video_path: Where the first episode is filmed, with the ending .mp4 or .gif; it may get the
            other ending (see the result) where no MP4 can be written. None: no film.
        difficulty: Of the distractions; None is `evaluation.difficulty`, else the trained one.
        explore: Act as in training, noise included; else as well as the policy can.
        timeout_s: Deadline; None is none. The episodes that had ended by then are the result, with
            a warning.

    Raises:
        ValueError: `episodes` is below 1.
        RunError: No episode ended within `timeout_s`.
        GraphicsUnavailable: Nothing can be drawn here; the message says what to install.
    """
    section = settings.evaluation
    chosen_split = split or ("train" if section.split == "train" else "held_out")
    count = section.episodes if episodes is None else episodes
    if count < 1:
        raise ValueError(f"episodes is {count}; evaluate at least one.")
    root = settings.run.seed if seed is None else seed
    picture = settings.environment
    shown = difficulty or section.difficulty or picture.difficulty
    film = None
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with ExitStack() as stack:
        environments = []
        for number in range(min(section.parallel_episodes, count)):
            environment = make_environment(
                shown_at(picture, shown),
                seed_for(root, "evaluation", shown, "environment", number),
                chosen_split,
            )
            stack.callback(environment.close)
            environments.append(environment)
        if video_path is not None and section.video_seconds > 0:
            film = _Film(environments[0], section.video_seconds, section.video_size)
        stack.enter_context(_seeded(seed_for(root, "evaluation", shown, "policy")))
        sample = section.explore if explore is None else explore
        returns, agent_steps = _play(policy, environments, count, sample, film, deadline)
    if len(returns) < count:
        advice = (
            f"Only {len(returns)} of {count} episodes ended within {timeout_s:g} s: raise "
            "evaluation.timeout_s, or lower evaluation.final_episodes."
        )
        if not returns:
            raise RunError(advice)
        logger.warning(advice)
    video = film.write(Path(video_path)) if film is not None and video_path is not None else None
    return EvaluationResult(tuple(returns), agent_steps, shown, chosen_split, video)


def shown_at(picture: EnvironmentSettings, difficulty: str) -> EnvironmentSettings:
    """Returns the environment that was trained on, with other distractions and nothing else new.

    It keeps the trained action repeat and view, which some difficulties have of their own, and
    takes the new difficulty at its own range.
    """
    if difficulty == picture.difficulty:
        return picture
    return replace(
        picture,
        difficulty=difficulty,
        action_repeat=find(picture.name).repeat(picture),
        view=view_of(picture),
        intensity=None,
    )


def _play(
    policy: Policy,
    environments: list[PixelEnvironment],
    episodes: int,
    explore: bool,
    film: _Film | None,
    deadline: float | None = None,
) -> tuple[list[float], int]:
    """Plays rounds of side-by-side episodes until there are enough or the clock is at `deadline`.

    A round that the deadline cuts short does not count: its long episodes would be missing.
    """
    returns: list[float] = []
    agent_steps = 0
    while len(returns) < episodes:
        playing = environments[: episodes - len(returns)]
        seen: list[Observation] = [environment.reset().observation for environment in playing]
        state = policy.initial_state(len(playing))
        is_first = np.ones(len(playing), bool)
        totals = np.zeros(len(playing))
        running = np.ones(len(playing), bool)
        while running.any():
            if deadline is not None and time.monotonic() > deadline:
                return returns, agent_steps
            if film is not None and running[0]:
                film.add(observation_fields(seen[0])["observation"])
            action, state = policy.act(stack_observations(seen), state, is_first, explore)
            is_first = np.zeros(len(playing), bool)
            for index in np.flatnonzero(running):
                step = playing[index].step(action[index])
                totals[index] += step.reward
                seen[index] = step.observation
                running[index] = not step.last()
                agent_steps += 1
        film = None
        returns += totals.tolist()
    return returns, agent_steps


class _Film:
    """Collects frames of one environment: for people on the left, what the policy sees beside."""

    def __init__(self, environment: PixelEnvironment, seconds: float, size: int) -> None:
        self._environment = environment
        self._size = size // 2 * 2
        self._seconds = seconds
        self._frames: list[np.ndarray] = []
        self._times: list[float] = []  # of the frames, in simulated seconds

    def add(self, picture: np.ndarray) -> None:
        """Films the present moment unless it is too soon or the film is full."""
        now = float(self._environment.time_s)
        if self._times and (
            now - self._times[-1] < 0.999 / _MAX_FRAMES_PER_S
            or now - self._times[0] >= self._seconds
        ):
            return
        scene = self._environment.render_frame(self._size)
        rows = np.arange(self._size) * picture.shape[0] // self._size
        columns = np.arange(self._size) * picture.shape[1] // self._size
        frame = np.concatenate([scene, picture[rows][:, columns]], axis=1)
        self._frames.append(frame[:, : frame.shape[1] // 2 * 2])
        self._times.append(now)

    @property
    def frames_per_s(self) -> float:
        """The rate at which the film runs as fast as the simulated world."""
        if len(self._times) < 2:
            return 1.0
        return (len(self._times) - 1) / (self._times[-1] - self._times[0])

    def write(self, path: Path) -> Path:
        """Writes the film and returns where; a GIF where no MP4 can be made."""
        import imageio.v2 as imageio

        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".gif":
            try:
                writer: Any
                with imageio.get_writer(
                    path, fps=self.frames_per_s, codec="libx264", macro_block_size=2, quality=5
                ) as writer:
                    for frame in self._frames:
                        writer.append_data(frame)
                return path
            except Exception as error:  # imageio raises its back-ends' own kinds
                logger.warning("No MP4 can be written (%s): writing a GIF instead.", error)
                path = path.with_suffix(".gif")
        milliseconds = 1000.0 / self.frames_per_s
        imageio.mimsave(path, self._frames, duration=milliseconds, loop=0)  # type: ignore[arg-type]
        return path


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global noise, which policies draw from, and puts it back afterwards."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
