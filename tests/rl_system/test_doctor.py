from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from actors.environments import robosuite
from actors.environments.settings import EnvironmentSettings
from rl_system import cluster, doctor, machine
from rl_system.cli import main
from rl_system.config import load_settings
from rl_system.errors import RunError, SettingsError
from rl_system.settings import RunSettings, Settings

PAPER = "core/cheetah-run/paper"


def test_graphics_works_here_or_the_package_to_install_is_named() -> None:
    checks = doctor.check_graphics()
    assert checks
    if not any(check.status == "ok" for check in checks):
        assert any("apt-get install" in check.advice for check in checks)
        assert any(check.status == "failure" for check in checks)


def test_a_library_that_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "missing_libraries", lambda backend: [f"lib{backend}.so"])
    checks = doctor.check_graphics()
    assert [check.status for check in checks] == ["failure", "warning"]
    assert "libEGL" not in checks[0].found and "libegl.so" in checks[0].found
    assert "libegl1 libopengl0 libgl1-mesa-dri" in checks[0].advice


def test_a_library_that_is_asked_for_and_cannot_draw_is_a_failure_beside_one_that_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking = {"egl": [], "osmesa": ["libOSMesa.so.8"]}
    monkeypatch.setattr(doctor, "missing_libraries", lambda backend: lacking[backend])
    if doctor.check_graphics()[0].status != "ok":
        pytest.skip("needs EGL")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    osmesa = doctor.check_graphics()[-1]
    assert osmesa.status == "failure" and "MUJOCO_GL=osmesa asks for it" in osmesa.found
    assert "unset MUJOCO_GL, or" in osmesa.advice
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert doctor.check_graphics()[-1].status == "ok"


def test_a_cache_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    (cache,) = [check for check in doctor.check_folders() if check.topic == "video cache"]
    assert cache.status == "warning" and "rl-system/videos cannot be written" in cache.found


def test_a_mujoco_that_dm_control_cannot_use_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, status in [("4.0.0", "failure"), ("3.16.1", "failure"), ("3.17.0", "ok")]:
        found = machine.versions() | {"mujoco": version}
        monkeypatch.setattr(machine, "versions", lambda found=found: found)
        (check,) = [check for check in doctor.check_versions() if check.topic == "mujoco"]
        assert check.status == status


def test_a_package_away_from_its_pin_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = machine.versions() | {"ray": "2.50.0", "dm_control": "missing", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(machine, "versions", lambda: found)
    checks = {check.topic: check for check in doctor.check_versions()}
    assert checks["ray"].status == "warning"
    assert "pip install ray==2.60.0" in checks["ray"].advice
    assert checks["dm_control"].status == "failure"
    assert checks["torch"].status == "ok"


def test_a_folder_without_videos_is_a_failure_that_says_what_it_should_hold(
    tmp_path: Path,
) -> None:
    checks = doctor.check_folders(str(tmp_path / "nothing"))
    assert checks[-1].status == "failure"
    assert "nothing" in checks[-1].found + checks[-1].advice


def test_whatever_needs_doing_comes_with_advice() -> None:
    checks = [*doctor.check_machine(), *doctor.check_versions(), *doctor.check_folders()]
    for check in [*checks, *doctor.check_robosuite()]:
        assert check.status == "ok" or check.advice


def test_a_machine_without_robosuite_is_fine_and_told_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(robosuite.PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(robosuite, "_BUILT", Path("nowhere", "python"))
    (check,) = doctor.check_robosuite()
    assert check.status == "ok" and "make robosuite" in check.found
    monkeypatch.setenv(robosuite.PYTHON_VARIABLE, str(tmp_path / "python"))
    (check,) = doctor.check_robosuite()
    assert check.status == "warning" and str(tmp_path) in check.found
    monkeypatch.setenv(robosuite.PYTHON_VARIABLE, sys.executable)  # has none
    (check,) = doctor.check_robosuite()
    assert check.status == "warning" and "No module named" in check.found
    assert "make robosuite" in check.advice


def test_the_python_of_robosuite_is_named_with_its_versions() -> None:
    try:
        python = robosuite.find_python(EnvironmentSettings(name="robosuite/door-panda"))
    except robosuite.RobosuiteMissing as error:
        pytest.skip(str(error))
    (check,) = doctor.check_robosuite()
    assert check.status == "ok"
    assert str(python) in check.found and "mujoco 3." in check.found


def test_a_python_of_robosuite_that_cannot_act_is_a_warning_with_both_ways_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = {"robosuite": "1.4.1", "mujoco": "3.1.1"}
    monkeypatch.setenv(robosuite.PYTHON_VARIABLE, sys.executable)
    monkeypatch.setattr(doctor, "_probe", lambda code, python: (versions, ""))
    (check,) = doctor.check_robosuite()  # this Python has no robosuite, whatever the probe says
    assert check.status == "warning" and "no actor can run: it lacks robosuite" in check.found
    assert "make robosuite" in check.advice
    assert "environment.robosuite_simulator=process" in check.advice


def test_the_command_ends_with_1_only_for_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [doctor.Check("a", "ok", "fine"), doctor.Check("b", "warning", "so so", "try c")]
    monkeypatch.setitem(doctor.SECTIONS, "machine", lambda: checks)
    assert main(["doctor", "--only", "machine"]) == 0
    assert "try c" in capsys.readouterr().out
    checks.append(doctor.Check("d", "failure", "broken", "mend it"))
    assert main(["doctor", "--only", "machine"]) == 1
    assert main(["doctor", "--only", "machine", "--quiet"]) == 1


def test_processes_of_one_machine_share_memory_and_where_not_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look() -> doctor.Check:
        return next(c for c in doctor.check_machine() if c.topic == "frames between processes")

    assert look().status == "ok"
    monkeypatch.setattr(doctor, "_SHARED", "print('{\"answer\": null}')")
    assert look().status == "warning" and "run.object_store_mb" in look().advice


@pytest.mark.slow
def test_ray_starts_here() -> None:
    (check,) = doctor.check_ray()
    assert check.status == "ok", check.found


def test_an_object_store_too_small_for_the_frames_in_flight_names_the_setting() -> None:
    small = load_settings(PAPER, ["run.object_store_mb=70"])
    with pytest.raises(SettingsError, match=r"run\.object_store_mb is 70"):
        cluster.object_store_mib(small)
    computed = cluster.object_store_mib(load_settings(PAPER))
    assert cluster.object_store_mib(load_settings(PAPER, [f"run.object_store_mb={computed}"])) == (
        computed
    )


def test_too_few_cpus_for_the_processes_of_a_run_names_the_setting() -> None:
    settings = replace(Settings(), run=RunSettings(num_cpus=1))
    with (
        pytest.raises(SettingsError, match=r"run\.num_cpus is 1"),
        cluster.ray_cluster(settings, needed_cpus=3.0),
    ):
        pass


def test_a_port_in_use_names_the_setting() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = replace(Settings(), run=RunSettings(dashboard_port=port))
        with (
            pytest.raises(RunError, match=rf"Port {port} is in use.*run\.dashboard_port"),
            cluster.ray_cluster(settings, needed_cpus=1.0),
        ):
            pass


def test_a_cluster_that_does_not_answer_names_the_setting() -> None:
    settings = replace(Settings(), run=RunSettings(address="127.0.0.1:1"))
    with (
        pytest.raises(RunError, match=r"run\.address=127\.0\.0\.1:1"),
        cluster.ray_cluster(settings, needed_cpus=1.0),
    ):
        pass


def test_native_messages_go_to_a_file_and_python_errors_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with cluster.native_messages_to(tmp_path / "native.log"):
        os.write(2, b"from a library\n")
        print("from Python", file=sys.stderr)
    os.write(2, b"afterwards\n")
    assert (tmp_path / "native.log").read_text() == "from a library\n"
    assert capfd.readouterr().err == "from Python\nafterwards\n"


def test_cpus_and_memory_are_those_of_this_process() -> None:
    assert 1 <= machine.cpus() <= (os.cpu_count() or 1)
    total, available = machine.memory_bytes()
    assert 0 <= available <= total
