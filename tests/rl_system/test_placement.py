from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.environments import robosuite
from actors.environments.robosuite import PYTHON_VARIABLE, RobosuiteMissing, find_python
from actors.environments.settings import EnvironmentSettings
from actors.runner import ActorGroup, actor_groups
from rl_system import placement
from rl_system.algorithm import CoReConfig
from rl_system.config import settings_from_dict
from rl_system.errors import SettingsError
from rl_system.evaluator import start_evaluator
from rl_system.hub import start_hub
from rl_system.placement import acting_options, acting_python, check_nodes, find_fault
from rl_system.settings import Settings
from tests.rl_system.tiny_run import TINY, train_until

DOOR = EnvironmentSettings(name="robosuite/door-panda", image_size=28, difficulty="randomized")
_OWN = list(sys.version_info[:2])
_VERSIONS = {
    name: wanted or "1.0" for name, wanted in placement._PACKAGES.items() if name != "robosuite"
} | {"robosuite": "1.4.1"}


def _settings(**environment: Any) -> Settings:
    fields = {"name": DOOR.name, "image_size": 28, "difficulty": "randomized", "quality": "fast"}
    sections = {
        "environment": fields | environment,
        "actors": TINY["actors"] | {"num_cpus_per_actor": 0.25, "random_agent_steps": 30},
        "replay": TINY["replay"] | {"minimum_agent_steps": 60, "cpus_per_shard": 0.25},
    }
    return settings_from_dict(TINY | sections)


@pytest.fixture
def answering(tmp_path: Path) -> Any:
    """A function that makes a program with the answer of a Python that is asked for versions."""

    def make(python: list[int] = _OWN, versions: dict[str, str] = _VERSIONS) -> str:
        path = tmp_path / "a python"
        answer = json.dumps({"python": python, "versions": versions})
        path.write_text(f"#!/bin/sh\necho {shlex.quote(answer)}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=150 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


def _find_acting_python() -> str:
    """Returns robosuite's Python; skips the test where there is none that can act."""
    try:
        python = str(find_python(DOOR))
    except RobosuiteMissing:
        pytest.skip("no Python with robosuite here: `make robosuite` builds it")
    if fault := find_fault(python):
        pytest.skip(f"{python}: {fault}: `make robosuite` mends it")
    return python


class TestThePythonThatActs:
    def test_tasks_of_this_python_are_acted_in_it(self) -> None:
        assert acting_python(EnvironmentSettings()) is None
        assert acting_options(EnvironmentSettings()) == {}

    def test_a_simulator_in_a_process_of_its_own_leaves_actors_in_this_python(self) -> None:
        assert acting_options(replace(DOOR, robosuite_simulator="process")) == {}

    def test_a_named_one_need_not_be_on_the_drivers_machine(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PYTHON_VARIABLE, "/on/the nodes/python")
        assert acting_python(DOOR) == "/on/the nodes/python"
        assert acting_options(DOOR) == {"py_executable": "'/on/the nodes/python'"}
        named = replace(DOOR, robosuite_python="/elsewhere/python")
        assert acting_python(named) == "/elsewhere/python"

    def test_where_none_is_named_or_built_it_is_said_how_to_get_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
        monkeypatch.setattr(robosuite, "_BUILT", Path("nowhere/bin/python"))
        with pytest.raises(RobosuiteMissing, match="make robosuite"):
            acting_python(DOOR)

    def test_another_place_for_the_simulator_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"robosuite_simulator has 'here'; .* actor, process"):
            EnvironmentSettings(robosuite_simulator="here")


class TestFaults:
    def test_one_with_everything_has_none(self, answering: Any) -> None:
        assert find_fault(answering()) is None

    def test_a_missing_program_is_told(self, tmp_path: Path) -> None:
        assert find_fault(str(tmp_path / "python")) == "no such program is there"
        assert find_fault(str(tmp_path)) == "no such program is there"

    def test_another_minor_version_is_told_with_how_to_build_with_the_right_one(
        self, answering: Any
    ) -> None:
        fault = find_fault(answering(python=[3, 9]))
        assert fault is not None and "it is Python 3.9" in fault
        assert f"make robosuite ROBOSUITE_PYTHON=python{_OWN[0]}.{_OWN[1]}" in fault

    def test_missing_packages_and_other_versions_are_told(self, answering: Any) -> None:
        versions = {name: v for name, v in _VERSIONS.items() if name != "torch"} | {"ray": "2.9.0"}
        assert find_fault(answering(versions=versions)) == (
            f"it lacks ray=={version('ray')}, torch"
        )

    def test_this_python_lacks_robosuite(self) -> None:
        assert find_fault(sys.executable) == "it lacks robosuite==1.4.1"

    def test_a_program_that_breaks_is_told_with_its_last_words(self, tmp_path: Path) -> None:
        path = tmp_path / "python"
        path.write_text("#!/bin/sh\necho broken installation >&2\nexit 3\n")
        path.chmod(0o755)
        assert find_fault(str(path)) == "it cannot be run (broken installation)"
        path.write_text("no program\n")
        fault = find_fault(str(path))
        assert fault is not None and fault.startswith("it cannot be run (")

    def test_a_program_that_hangs_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "python"
        path.write_text("#!/bin/sh\nexec sleep 60\n")
        path.chmod(0o755)
        monkeypatch.setattr(placement, "PROBE_TIMEOUT_S", 0.2)
        assert find_fault(str(path)) == "it did not start within 0 s"


@pytest.mark.parametrize(
    "modules", ["actors.runner, rl_system.algorithm, learners.module", "rl_system.evaluator"]
)
def test_what_actors_and_the_evaluator_import_is_in_robosuites_python(modules: str) -> None:
    python = _find_acting_python()
    code = f"import {modules}, rl_system.evaluation, replay.writer; print('imported')"
    # Isolated, and from a folder without this project: it must be installed there as well.
    done = subprocess.run(
        [python, "-I", "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd="/",
    )
    assert done.stdout == "imported\n", done.stderr


def test_the_group_of_env_runners_is_ours_only_while_it_is_made() -> None:
    from ray.rllib.algorithms import algorithm

    before = algorithm.EnvRunnerGroup
    with pytest.raises(KeyError), actor_groups():
        assert algorithm.EnvRunnerGroup is ActorGroup
        raise KeyError
    assert algorithm.EnvRunnerGroup is before


class TestOnACluster:
    def test_a_node_without_that_python_stops_the_run_with_what_to_do(
        self, cluster: None, tmp_path: Path
    ) -> None:
        settings = _settings(robosuite_python=str(tmp_path / "python"))
        (node,) = ray.nodes()
        words = (
            rf"{tmp_path}/python, which must be on every node .* Node {node['NodeManagerAddress']}:"
            r" no such program is there\. `make robosuite` .*environment.robosuite_python.*"
            r"environment.robosuite_simulator=process"
        )
        with pytest.raises(SettingsError, match=words):
            CoReConfig.from_settings(settings).build_algo()

    def test_one_that_lacks_packages_stops_the_run_too(self, cluster: None) -> None:
        with pytest.raises(SettingsError, match=r"it lacks robosuite==1.4.1\. `make robosuite`"):
            check_nodes(_settings(robosuite_python=sys.executable))

    def test_tasks_of_this_python_need_none(self, cluster: None) -> None:
        check_nodes(settings_from_dict(TINY))

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_actors_and_evaluator_run_in_robosuites_python_and_the_rest_in_this(
        self, cluster: None
    ) -> None:
        """Trains: frames go from that Python to replay, weights come back and change the policy.

        A killed actor, and its simulator with it, comes back in the same Python.
        """
        python = _find_acting_python()

        def look(runner: Any) -> dict[str, Any]:  # here, since that Python has no pytest
            import os
            import sys

            import numpy

            return {
                "executable": sys.executable,
                "numpy": numpy.__version__,
                "threads": os.environ.get("OMP_NUM_THREADS"),
                "process": os.getpid(),
                "simulator": runner.environments[0].process_id,
                "weights_updates": runner._policy.updates,
            }

        settings = _settings(action_repeat=10)  # 50 agent steps an episode
        algorithm = CoReConfig.from_settings(settings).build_algo()
        try:
            metrics = train_until(
                algorithm, lambda m: m["updates"] >= 40 and m["episodes"] >= 2, timeout_s=150.0
            )
            assert metrics["agent_steps"] >= 100

            def places() -> list[dict[str, Any]]:
                group = algorithm.env_runner_group
                return group.foreach_env_runner(look, local_env_runner=False, timeout_seconds=20)

            train_until(
                algorithm, lambda _: any(p["weights_updates"] > 0 for p in places()), timeout_s=90.0
            )
            (place,) = places()
            assert place["executable"] == python
            assert place["numpy"].startswith("1.") and place["threads"] == "1"
            assert place["simulator"] == place["process"]
            learner = algorithm.learner_group.foreach_learner(lambda _: sys.executable)
            assert [result.get() for result in learner] == [sys.executable]
            result = algorithm.evaluate()["evaluation"]
            assert result["episodes"] == 1.0 and 0.0 <= result["return_mean"] < 250.0

            os.kill(place["process"], signal.SIGKILL)  # the simulator with it
            train_until(
                algorithm,
                lambda _: any(now["process"] != place["process"] for now in places()),
                timeout_s=150.0,
            )
            assert [now["executable"] for now in places()] == [python]
        finally:
            algorithm.stop()

    @pytest.mark.slow
    def test_the_evaluator_is_started_in_robosuites_python(self, cluster: None) -> None:
        python = _find_acting_python()
        hub = start_hub("placement")
        evaluator = start_evaluator("placement", _settings(), action_dims=7)
        call: Any = evaluator.__ray_call__
        executable = ray.get(call.remote(lambda _: __import__("sys").executable), timeout=60)
        assert executable == python
        ray.kill(evaluator)
        ray.kill(hub)
