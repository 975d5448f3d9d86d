from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import time
import unittest
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dm_env
import numpy as np
import pytest
from dm_env import test_utils
from PIL import Image

from actors.environments import backend, robosuite, robosuite_process, self_check
from actors.environments.catalog import make_environment
from actors.environments.robosuite import RobosuiteEnvironment, RobosuiteMissing, find_python
from actors.environments.robosuite_process.errors import GraphicsError
from actors.environments.server_process import ProcessFailed, ServerProcess
from actors.environments.settings import EnvironmentSettings

PROPRIOCEPTION = {"panda": 32, "jaco": 40}
_PEER = Path(__file__).resolve().parents[3] / "benchmarks" / "peers" / "robosuite_door.py"


def _settings(robot: str = "panda", **fields: Any) -> EnvironmentSettings:
    given = {"image_size": 144, "difficulty": "randomized", "quality": "fast"} | fields
    return EnvironmentSettings(name=f"robosuite/door-{robot}", **given)


def _missing() -> str | None:
    try:
        find_python(_settings())
    except RobosuiteMissing:
        return "no Python with robosuite here: `make robosuite` builds it"
    return None


needs_robosuite = pytest.mark.skipif(_missing() is not None, reason=_missing() or "")


def _make(
    robot: str = "panda", seed: int = 0, split: str = "train", **fields: Any
) -> RobosuiteEnvironment:
    environment = make_environment(_settings(robot, **fields), seed, split)  # type: ignore[arg-type]
    assert isinstance(environment, RobosuiteEnvironment)
    return environment


def _roll(environment: RobosuiteEnvironment, count: int, seed: int = 0) -> list[dm_env.TimeStep]:
    generator = np.random.default_rng(seed)
    return [environment.step(generator.uniform(-1, 1, 7)) for _ in range(count)]


def _assert_equal(first: list[dm_env.TimeStep], second: list[dm_env.TimeStep]) -> None:
    for one, two in zip(first, second, strict=True):
        np.testing.assert_equal(tuple(one), tuple(two))


def _difference(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - two).mean())


@pytest.fixture(scope="module")
def shared() -> Iterator[RobosuiteEnvironment]:
    """One environment for the tests that leave it as they found it: able to reset."""
    environment = _make(proprioception=True)
    yield environment
    environment.close()


class TestPythonThatIsFound:
    def test_none_says_how_to_get_one(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(robosuite, "_BUILT", Path("nowhere/bin/python"))
        monkeypatch.delenv(robosuite.PYTHON_VARIABLE, raising=False)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(RobosuiteMissing, match=r"make robosuite.*environment.robosuite_python"):
            make_environment(_settings(), 0)

    def test_a_named_one_that_is_not_there_is_told_by_its_name(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = str(tmp_path / "python")
        with pytest.raises(RobosuiteMissing, match=r"environment.robosuite_python is .*python'"):
            find_python(_settings(robosuite_python=path))
        monkeypatch.setenv(robosuite.PYTHON_VARIABLE, str(tmp_path))  # a folder is no program
        with pytest.raises(RobosuiteMissing, match=robosuite.PYTHON_VARIABLE):
            find_python(_settings())

    def test_the_setting_goes_before_the_variable_and_that_before_the_built_one(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        built = tmp_path / robosuite._BUILT
        paths = [tmp_path / "set", tmp_path / "variable", built]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o755)
        monkeypatch.setattr(robosuite, "__file__", str(tmp_path / "a" / "b" / "robosuite.py"))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv(robosuite.PYTHON_VARIABLE, str(paths[1]))
        assert find_python(_settings(robosuite_python=str(paths[0]))) == paths[0]
        assert find_python(_settings()) == paths[1]
        monkeypatch.delenv(robosuite.PYTHON_VARIABLE)
        assert find_python(_settings()) == built

    def test_one_without_robosuite_is_told_with_what_it_lacks(self, tmp_path: Path) -> None:
        bare = tmp_path / "python"
        bare.write_text("#!/bin/sh\necho 'No module named robosuite' >&2\nexit 1\n")
        bare.chmod(0o755)
        with pytest.raises(ProcessFailed, match=r"(?s)exit code 1 .*No module named robosuite"):
            make_environment(_settings(robosuite_python=str(bare)), 0)

    def test_this_python_has_no_robosuite_and_says_how_to_get_one(self) -> None:
        with pytest.raises(RobosuiteMissing, match=r"No module named.*make robosuite"):
            make_environment(_settings(robosuite_python=sys.executable), 0)


class TestSettings:
    def test_randomising_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="neither color nor camera"):
            _make(distractions=("background",))

    def test_levels_of_other_environments_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"none, randomized"):
            _make(difficulty="medium")

    def test_a_negative_seed_is_refused(self) -> None:
        with pytest.raises(ValueError, match="seed is -1; it must be 0 or more"):
            _make(seed=-1)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("videos", "somewhere"),
            ("videos_split", "split.txt"),
            ("num_videos", 2),
            ("background_blend", 0.3),
            ("natural_mask", "sky"),
            ("view", "square"),
            ("ground_alpha", 0.5),
            ("intensity", 0.2),
        ],
    )
    def test_a_setting_without_effect_is_refused_by_its_name(self, field: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"environment.{field}"):
            _make(**{field: value})

    def test_settings_without_effect_are_refused_together(self) -> None:
        words = "environment.num_videos, environment.view would have no effect .* leave them out"
        with pytest.raises(ValueError, match=words):
            _make(view="wide", num_videos=2)

    @needs_robosuite
    def test_motion_and_background_may_be_asked_for_and_have_no_effect(self) -> None:
        moving = _make(dynamic=True, distractions=("background", "camera", "color"))
        still = _make(dynamic=False, distractions=("camera", "color"))
        _assert_equal([moving.reset()], [still.reset()])
        _assert_equal(_roll(moving, 3), _roll(still, 3))
        moving.close()
        still.close()


class TestLibraries:
    def test_no_library_to_draw_with_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MUJOCO_GL", "disabled")
        with pytest.raises(backend.GraphicsUnavailable, match=r"apt-get install .*environment.gl"):
            robosuite.list_libraries(_settings())

    def test_a_missing_library_is_told_with_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend, "_LIBRARIES", {"egl": ("libNoSuchThing.so.1",)})
        with pytest.raises(backend.GraphicsUnavailable, match=r"libNoSuch.*apt-get install"):
            robosuite.list_libraries(_settings(gl="egl"))

    def test_osmesa_is_a_second_choice_where_it_is_and_none_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MUJOCO_GL", "egl")
        both: dict[str, tuple[str, ...]] = {"egl": (), "osmesa": ()}
        monkeypatch.setattr(backend, "_LIBRARIES", both)
        assert robosuite.list_libraries(_settings()) == ["egl", "osmesa"]
        assert robosuite.list_libraries(_settings(gl="egl")) == ["egl"]
        assert robosuite.list_libraries(_settings(gl="osmesa")) == ["osmesa"]
        monkeypatch.setattr(backend, "_LIBRARIES", both | {"osmesa": ("libNoSuchThing.so.1",)})
        assert robosuite.list_libraries(_settings()) == ["egl"]

    def test_the_process_inherits_neither_paths_nor_gpus(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "PYOPENGL_PLATFORM"):
            monkeypatch.setenv(name, "3")
        variables = robosuite.list_variables(_settings(render_device=2), "egl")
        assert not {"PYTHONPATH", "CUDA_VISIBLE_DEVICES", "PYOPENGL_PLATFORM"} & set(variables)
        assert (variables["MUJOCO_GL"], variables["MUJOCO_EGL_DEVICE_ID"]) == ("egl", "2")
        assert variables["LP_NUM_THREADS"] == "0"


# A program in the place of the simulator's, which cannot draw with some libraries.
_BLIND = """
import json, os, sys
sys.path.insert(0, {folder!r})
from messages import encode
library = os.environ["MUJOCO_GL"]
reply = {{"sizes": {{"action": 7, "proprioception": 32}}}}
if library in {blind!r}:
    failure = "Traceback ...\\nerrors.GraphicsError: " + library + ": {reason}"
    reply = {{"error": failure, "kind": "GraphicsError"}}
sys.stdout.buffer.write(encode(reply))
sys.stdout.buffer.flush()
sys.stdin.read()
"""


def _act_in_robosuites_python(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    """Has this process count as one of robosuite's Python, where making a door raises `error`.

    Returns a list that gets the library of every attempt.
    """
    tried: list[str] = []

    def fail(arguments: dict[str, Any], variables: dict[str, str]) -> None:
        tried.append(variables["MUJOCO_GL"])
        raise error

    monkeypatch.setattr(robosuite, "has_robosuite", lambda: True)
    monkeypatch.setattr(robosuite, "LocalDoor", fail)
    return tried


class TestTurningToAnotherLibrary:
    """Without a simulator: what is tried behind a library that cannot draw, and what is said."""

    @pytest.fixture
    def blind(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
        """A function that gives settings whose Python cannot draw with the named libraries."""
        monkeypatch.setenv("MUJOCO_GL", "egl")
        monkeypatch.setattr(backend, "_LIBRARIES", {"egl": (), "osmesa": ()})
        folder = str(Path(robosuite_process.__file__).parent)
        real = sys.executable  # a test may set another one

        def settings(*libraries: str, reason: str = "no light", **fields: Any) -> Any:
            program, python = tmp_path / "program.py", tmp_path / "python"
            program.write_text(_BLIND.format(folder=folder, blind=libraries, reason=reason))
            python.write_text(f"#!/bin/sh\nexec {real} {program}\n")
            python.chmod(0o755)
            return _settings(robosuite_python=str(python), **fields)

        return settings

    def test_osmesa_draws_where_egl_cannot(self, blind: Any) -> None:
        with make_environment(blind("egl"), 0) as environment:
            assert environment.library == "osmesa"

    def test_egl_draws_where_it_can(self, blind: Any) -> None:
        with make_environment(blind("osmesa"), 0) as environment:
            assert environment.library == "egl"

    def test_a_named_library_is_not_replaced(self, blind: Any) -> None:
        with pytest.raises(backend.GraphicsUnavailable, match=r"here \(egl: no light\): set"):
            make_environment(blind("egl", gl="egl"), 0)

    def test_both_reasons_are_told_when_neither_can(self, blind: Any) -> None:
        words = r"here \(egl: no light; osmesa: no light\).*apt-get install -y libosmesa6"
        with pytest.raises(backend.GraphicsUnavailable, match=words):
            make_environment(blind("egl", "osmesa"), 0)

    def test_an_actor_whose_egl_cannot_draw_has_its_simulator_in_a_process_beside(
        self, blind: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Since one process draws with one library, and it has loaded EGL by then."""
        tried = _act_in_robosuites_python(monkeypatch, GraphicsError("no light", "egl"))
        settings = blind("egl")
        monkeypatch.setattr(sys, "executable", settings.robosuite_python)
        with make_environment(settings, 0) as environment:
            assert environment.library == "osmesa"
            assert environment.process_id != os.getpid()
        assert tried == ["egl"]
        with pytest.raises(backend.GraphicsUnavailable, match=r"here \(egl: no light; osmesa: no"):
            make_environment(blind("egl", "osmesa"), 0)
        with pytest.raises(backend.GraphicsUnavailable, match=r"here \(egl: no light\): set"):
            make_environment(blind("egl", gl="egl"), 0)

    def test_an_actor_that_is_to_have_it_beside_never_tries_within(
        self, blind: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = _act_in_robosuites_python(monkeypatch, GraphicsError("no light", "egl"))
        with make_environment(blind(robosuite_simulator="process"), 0) as environment:
            assert environment.library == "egl" and environment.process_id != os.getpid()
        assert tried == []

    def test_an_actor_without_mujoco_says_how_to_get_it(
        self, blind: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _act_in_robosuites_python(monkeypatch, ModuleNotFoundError("No module named 'mujoco'"))
        with pytest.raises(RobosuiteMissing, match=r"No module named 'mujoco'.*make robosuite"):
            make_environment(blind(), 0)

    def test_nothing_takes_the_place_of_a_device_that_was_named(self, blind: Any) -> None:
        reason = "MUJOCO_EGL_DEVICE_ID must be between 0 and 0"
        with pytest.raises(backend.GraphicsUnavailable, match=r"0 and 0\): set .*render_device"):
            make_environment(blind("egl", reason=reason, render_device=99), 0)


@needs_robosuite
@pytest.mark.slow
class TestContract(test_utils.EnvironmentTestMixin, unittest.TestCase):
    """dm_env's own tests of what an environment promises, over the end of an episode."""

    def make_object_under_test(self) -> RobosuiteEnvironment:
        return _make(action_repeat=50, proprioception=True)

    def make_action_sequence(self) -> Iterator[np.ndarray]:
        for _ in range(25):
            yield self.make_action()


@needs_robosuite
@pytest.mark.parametrize("robot", ["panda", pytest.param("jaco", marks=pytest.mark.slow)])
class TestEachRobot:
    def test_the_same_seed_and_actions_give_identical_episodes(self, robot: str) -> None:
        one, two = (_make(robot, 7, proprioception=True) for _ in range(2))
        for _ in range(2):
            _assert_equal([one.reset()], [two.reset()])
            _assert_equal(_roll(one, 3), _roll(two, 3))
        one.close()
        two.close()

    def test_a_reset_with_a_seed_gives_the_episode_of_a_new_environment(self, robot: str) -> None:
        used, new = _make(robot, 1, proprioception=True), _make(robot, 7, proprioception=True)
        used.reset()
        _roll(used, 3)
        _assert_equal([used.reset(seed=7)], [new.reset()])
        _assert_equal(_roll(used, 3), _roll(new, 3))
        used.close()
        new.close()

    def test_a_restored_environment_continues_identically(self, robot: str) -> None:
        environment = _make(robot, 3, proprioception=True)
        environment.reset()
        _roll(environment, 8)
        state = pickle.dumps(environment.get_state())
        assert len(state) < 40_000
        observation = environment.observation()
        rest = [*_roll(environment, 8), environment.reset(), *_roll(environment, 2)]
        environment.close()
        other = _make(robot, 99, proprioception=True)  # restored before its first reset
        other.set_state(pickle.loads(state))
        np.testing.assert_equal(other.observation(), observation)
        _assert_equal(rest, [*_roll(other, 8), other.reset(), *_roll(other, 2)])
        _roll(other, 1, seed=5)
        other.set_state(pickle.loads(state))  # and from the midst of another episode
        _assert_equal(rest[:8], _roll(other, 8))
        other.close()

    def test_observations_have_the_promised_shapes(self, robot: str) -> None:
        environment = _make(robot, proprioception=True)
        spec = environment.observation_spec()
        observation = environment.reset().observation
        assert observation["observation"].shape == (144, 144, 3)
        assert observation["proprioception"].shape == (PROPRIOCEPTION[robot],)
        assert observation["proprioception"].dtype == np.float32
        for name, value in observation.items():
            spec[name].validate(value)
        joints = observation["proprioception"][:14].reshape(2, 7)  # cosines, then sines
        np.testing.assert_allclose((joints**2).sum(axis=0), 1.0, atol=1e-5)
        environment.close()

    @pytest.mark.slow
    @pytest.mark.parametrize("randomize", ["-", "color,camera", "color", "camera"])
    def test_exact_quality_is_what_robosuite_gives(
        self, robot: str, randomize: str, tmp_path: Path
    ) -> None:
        """Byte for byte: pictures and proprioception of two episodes, rewards to the last bit."""
        fields: dict[str, Any] = {"difficulty": "none"}
        if randomize != "-":
            fields = {"distractions": tuple(randomize.split(","))}
        environment = _make(robot, 11, quality="exact", proprioception=True, **fields)
        peer = _start_peer(robot, 11, [] if randomize == "-" else randomize.split(","))
        for _ in range(2):
            expected = peer.call("reset", timeout_s=60.0)
            time_step = environment.reset()
            for action in np.random.default_rng(0).uniform(-1.0, 1.0, (6, 7)):
                observation = time_step.observation
                np.testing.assert_array_equal(observation["observation"], expected["picture"])
                np.testing.assert_array_equal(
                    observation["proprioception"], expected["proprioception"]
                )
                assert time_step.first() or time_step.reward == expected["reward"]
                expected = peer.call("step", action, timeout_s=60.0)
                time_step = environment.step(action)
        environment.close()
        peer.close()


def _start_peer(robot: str, seed: int, randomize: list[str]) -> ServerProcess:
    task_seed, looks_seed = np.random.SeedSequence([seed, zlib.crc32(b"train")]).generate_state(2)
    arguments = {
        "messages": str(Path(robosuite_process.__file__).parent),
        "robot": robot.capitalize(),
        "task_seed": int(task_seed),
        "looks_seed": int(looks_seed),
        "randomize": randomize,
    }
    settings = _settings()
    variables = robosuite.list_variables(settings, robosuite.list_libraries(settings)[0])
    server = ServerProcess(find_python(settings), _PEER, arguments, variables)
    server.receive("start", 200.0)
    return server


@needs_robosuite
class TestEpisodes:
    def test_seeds_splits_and_episodes_differ(self, shared: RobosuiteEnvironment) -> None:
        first, second = (shared.reset().observation["observation"] for _ in range(2))
        assert _difference(first, second) > 2
        held_out = _make(split="held_out")
        assert _difference(first, held_out.reset().observation) > 2
        held_out.close()

    def test_an_episode_is_500_control_steps_and_does_not_terminate(self) -> None:
        environment = _make(action_repeat=150, difficulty="none")
        environment.reset()
        time_steps = _roll(environment, environment.episode_agent_steps)
        assert [time_step.last() for time_step in time_steps] == [False, False, False, True]
        assert time_steps[-1].discount == 1.0
        assert environment.simulator_steps == 50
        assert environment.time_s == 25.0
        assert _roll(environment, 1)[0].first() and environment.time_s == 0.0
        environment.close()

    def test_rewards_are_in_the_published_range(self, shared: RobosuiteEnvironment) -> None:
        shared.reset()
        rewards = [time_step.reward for time_step in _roll(shared, 5)]
        assert all(0.0 <= reward <= 0.5 for reward in rewards) and len(set(rewards)) > 1

    def test_actions_move_the_hand_and_are_clipped_and_checked(
        self, shared: RobosuiteEnvironment
    ) -> None:
        shared.reset()
        state = shared.get_state()
        up = np.array([0, 0, 1, 0, 0, 0, 0])
        height = 3 * 7 + 2  # of the hand, behind cosines, sines and speeds of 7 joints
        before = shared.observation()["proprioception"][height]
        moved = [shared.step(up) for _ in range(4)]
        assert moved[-1].observation["proprioception"][height] > before + 0.02
        shared.set_state(state)
        _assert_equal(moved, [shared.step(up * 9.0) for _ in range(4)])
        with pytest.raises(ValueError, match="shape"):
            shared.step(np.zeros(6))
        with pytest.raises(ValueError, match="not finite"):
            shared.step(np.full(7, np.nan))

    def test_a_diverged_simulation_earns_nothing_and_repeats_the_observation(
        self, shared: RobosuiteEnvironment
    ) -> None:
        shared.reset()
        state = shared.get_state()
        # A state is the time, 11 positions and 11 velocities of Panda and the door, and more.
        state["simulator"]["integration"][12:23] = 1e12
        shared.set_state(state)
        before = shared.observation()
        time_step = shared.step(np.ones(7))
        assert time_step.mid() and time_step.reward == 0.0
        np.testing.assert_equal(time_step.observation, before)
        assert np.isfinite(shared.step(np.zeros(7)).reward)
        shared.reset()

    def test_observations_belong_to_the_caller(self, shared: RobosuiteEnvironment) -> None:
        first = shared.reset().observation
        kept = pickle.dumps(first)
        _roll(shared, 1)
        np.testing.assert_equal(first, pickle.loads(kept))
        assert first["observation"].flags.writeable and first["observation"].flags.c_contiguous

    def test_a_state_of_another_environment_is_refused(self, shared: RobosuiteEnvironment) -> None:
        state = shared.get_state()
        for key, value in (("name", "robosuite/door-jaco"), ("version", 0), ("randomize", [])):
            with pytest.raises(ValueError, match=key):
                shared.set_state(state | {key: value})


@needs_robosuite
class TestPictures:
    @pytest.mark.parametrize("difficulty", ["none", "randomized"])
    def test_paper_quality_is_within_one_grey_level_of_exact(self, difficulty: str) -> None:
        exact, paper = (_make(quality=name, difficulty=difficulty) for name in ("exact", "paper"))
        for _ in range(2):
            pairs = [(exact.reset(), paper.reset())]
            pairs += list(zip(_roll(exact, 2), _roll(paper, 2), strict=True))
            for one, two in pairs:
                assert one.reward == two.reward
                assert _difference(one.observation, two.observation) < 1.0
        exact.close()
        paper.close()

    def test_fast_quality_changes_pictures_alone(self) -> None:
        fast, paper = (_make(quality=name, difficulty="none") for name in ("fast", "paper"))
        pairs = [(fast.reset(), paper.reset()), *zip(_roll(fast, 3), _roll(paper, 3), strict=True)]
        for one, two in pairs:
            assert one.reward == two.reward
            assert 0.0 < _difference(one.observation, two.observation) < 6.0
        fast.close()
        paper.close()

    @pytest.mark.parametrize("quality", ["exact", "paper", "fast"])
    def test_the_clean_twin_is_the_picture_without_randomisation(self, quality: str) -> None:
        clean, randomized = _make(difficulty="none", quality=quality), _make(quality=quality)
        for _ in range(2):
            clean.reset()
            randomized.reset()
            seen = randomized.observation()
            assert _difference(clean.observation(), seen) > 2
            np.testing.assert_array_equal(randomized.clean_observation(), clean.observation())
            np.testing.assert_array_equal(clean.clean_observation(), clean.observation())
            np.testing.assert_array_equal(randomized.observation(), seen)
            _roll(clean, 2)
            _roll(randomized, 2)
            np.testing.assert_array_equal(randomized.clean_observation(), clean.observation())
        clean.close()
        randomized.close()

    def test_colours_and_cameras_are_randomised_apart(self) -> None:
        poses, lights = {}, {}
        for kinds in (("color",), ("camera",), ("color", "camera")):
            environment = _make(distractions=kinds)
            environment.reset()
            derived = environment.get_state()["simulator"]["derived"]
            poses[kinds], lights[kinds] = derived["cam_xpos"][0], derived["light_xpos"][0]
            environment.close()
        original_light = [1.0, 1.0, 1.5]
        np.testing.assert_allclose(lights["camera",], original_light)
        assert not np.allclose(lights["color",], original_light)
        assert not np.allclose(poses["camera",], poses["color",])
        assert np.abs(poses["camera",] - poses["color",]).max() <= 0.01
        assert not np.allclose(poses["color", "camera"], poses["color",])

    def test_another_size_is_the_same_picture_resized(self) -> None:
        full, small = _make(), _make(image_size=64)
        picture = Image.fromarray(full.reset().observation)
        resized = np.array(picture.resize((64, 64), Image.Resampling.BILINEAR))
        assert small.observation_spec().shape == (64, 64, 3)
        np.testing.assert_array_equal(small.reset().observation, resized)
        full.close()
        small.close()

    def test_frames_for_people_do_not_disturb_observations(
        self, shared: RobosuiteEnvironment
    ) -> None:
        shared.reset()
        before = shared.observation()
        assert shared.render_frame(240).shape == (240, 320, 3)
        assert shared.render_frame(480).std() > 1.0
        np.testing.assert_equal(shared.observation(), before)


@needs_robosuite
class TestProcess:
    def test_a_killed_simulator_is_told_and_another_can_be_made(self) -> None:
        environment = _make()
        environment.reset()
        os.kill(environment.process_id, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(ProcessFailed, match="signal 9"):
                environment.step(np.zeros(7))
        environment.close()

    def test_a_simulator_that_hangs_is_told_at_the_deadline(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        environment = _make()
        environment.reset()
        os.kill(environment.process_id, signal.SIGSTOP)
        monkeypatch.setattr(robosuite, "CALL_TIMEOUT_S", 0.5)
        began = time.monotonic()
        with pytest.raises(ProcessFailed, match=r"`step` within 0.5 s"):
            environment.step(np.zeros(7))
        assert time.monotonic() - began < 10.0
        environment.close()

    @pytest.mark.parametrize("gl", ["auto", "egl"])
    def test_a_device_that_does_not_exist_is_told(self, gl: str) -> None:
        if "egl" not in robosuite.list_libraries(_settings()):
            pytest.skip("needs EGL")
        with pytest.raises(backend.GraphicsUnavailable, match=r"environment.render_device"):
            _make(gl=gl, render_device=99)

    def test_closing_ends_the_process_and_twice_is_fine(self) -> None:
        environment = _make()
        process = Path(f"/proc/{environment.process_id}")
        environment.close()
        environment.close()
        assert not process.exists()


def _is_loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


# Makes the box of the known scene dark, by what is behind the file that draws it.
_DARKEN = """
import os
if os.environ["MUJOCO_GL"] in {libraries!r}:
    _SCENE = _SCENE.replace('emission="1"', 'emission="0"')
"""


@needs_robosuite
@pytest.mark.skipif(bool(backend.missing_libraries("egl")), reason="needs EGL")
class TestSelfCheck:
    """With a real simulator, whose EGL is broken or draws wrong pictures."""

    @pytest.fixture(autouse=True)
    def _egl_is_chosen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MUJOCO_GL", "egl")

    @pytest.fixture
    def darken(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
        """A function that makes the known scene dark for some libraries."""

        def darken_for(*libraries: str) -> None:
            path = tmp_path / "self_check.py"
            text = Path(self_check.__file__).read_text()
            path.write_text(text + _DARKEN.format(libraries=libraries))
            monkeypatch.setattr(robosuite, "_SELF_CHECK", path)

        return darken_for

    def test_an_egl_that_draws_wrong_pictures_is_refused_with_what_is_wrong(
        self, darken: Any
    ) -> None:
        darken("egl")
        words = r"\(egl: it draws wrong pictures: of a red box before a blue sky, 0% is red"
        with pytest.raises(backend.GraphicsUnavailable, match=words):
            _make(gl="egl")

    def test_an_egl_without_a_driver_is_refused_with_its_own_words(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        if not _is_loadable("libGLdispatch.so.0"):
            pytest.skip("needs an EGL that takes its drivers from a folder")
        monkeypatch.setenv("__EGL_VENDOR_LIBRARY_DIRS", str(tmp_path))
        with pytest.raises(backend.GraphicsUnavailable, match=r"\(egl: Cannot initialize a EGL"):
            _make(gl="egl")

    @pytest.mark.slow
    @pytest.mark.skipif(bool(backend.missing_libraries("osmesa")), reason="needs OSMesa")
    @pytest.mark.parametrize("fault", ["wrong pictures", "no driver"])
    def test_osmesa_takes_the_place_of_a_broken_egl_and_keeps_it(
        self, fault: str, darken: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        right = _make(difficulty="none")
        expected = right.reset().observation
        assert right.library == "egl"
        right.close()
        if fault == "wrong pictures":
            darken("egl")
        elif not _is_loadable("libGLdispatch.so.0"):
            pytest.skip("needs an EGL that takes its drivers from a folder")
        else:
            monkeypatch.setenv("__EGL_VENDOR_LIBRARY_DIRS", str(tmp_path))
        environment = _make(difficulty="none")
        assert environment.library == "osmesa"
        assert _difference(environment.reset().observation, expected) < 1.0
        assert _difference(environment.reset(seed=0).observation, expected) < 1.0
        assert environment.library == "osmesa"
        environment.close()

    @pytest.mark.skipif(bool(backend.missing_libraries("osmesa")), reason="needs OSMesa")
    def test_both_reasons_are_told_when_both_draw_wrong_pictures(self, darken: Any) -> None:
        darken("egl", "osmesa")
        with pytest.raises(backend.GraphicsUnavailable, match=r"\(egl: it .*; osmesa: it .*0% is"):
            _make()
