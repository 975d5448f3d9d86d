"""The end of a run: the policy measured and filmed, beside trivial policies, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from actors.environments.catalog import find
from rl_system.errors import UserError
from rl_system.evaluation import EvaluationResult, evaluate
from rl_system.machine import cpus
from rl_system.progress import summary
from rl_system.run_directory import MetricsLog, RunDirectory, write_json
from rl_system.settings import Settings

COUNTERS = ("agent_steps", "simulator_steps", "episodes", "updates", "elapsed_s")


def finish(directory: RunDirectory, settings: Settings, checkpoint: Path, console: Console) -> None:
    """Measure the policy of `checkpoint`, add the numbers to the run and write the report.

    Ray is not needed any more: the episodes are played in this process, and they use no core that
    training could have used.

    Raises:
        UserError: The checkpoint holds no policy, or no episode ended before the deadline
            `evaluation.timeout_s` (of each of the evaluations).
    """
    section = settings.evaluation
    rows: list[tuple[str, str]] = []
    line: dict[str, Any] = {}
    if section.final_episodes > 0:
        count = f"{section.final_episodes} episode{'s' * (section.final_episodes > 1)}"
        console.print(f"Evaluating {count} ...", highlight=False)
        result = evaluate_checkpoint(
            directory, settings, checkpoint, "final", timeout_s=section.timeout_s
        )
        line |= {f"eval/{name}": value for name, value in result.metrics().items()}
        rows.append(("evaluation", str(result)))
        if section.distracted_twin is not None:
            console.print(f"Evaluating with distractions: {section.distracted_twin} ...")
            twin = evaluate_checkpoint(
                directory,
                settings,
                checkpoint,
                "twin",
                difficulty=section.distracted_twin,
                timeout_s=section.timeout_s,
            )
            line |= {"twin/return_mean": twin.mean, "twin/return_se": twin.se}
            rows.append(("same policy", str(twin)))
    # Others cannot be stepped without drawing: that would take longer than the run.
    undrawn = find(settings.environment.name).family == "dcs"
    if section.trivial_episodes > 0 and undrawn:
        console.print("Measuring trivial policies ...", highlight=False)
        trivial = measure_trivial_policies(directory, settings)
        name = max(trivial, key=lambda policy: trivial[policy][0])
        line["trivial/best_return"] = trivial[name][0]
        mean, error = trivial[name]
        spread = f" ± {error:.1f}" if section.trivial_episodes > 1 else ""
        rows.append(("best trivial policy", f"{mean:.1f}{spread} ({name})"))
    if line:
        history = directory.metrics()
        last = history[-1] if history else {}
        with MetricsLog(directory, settings.run.tensorboard) as log:
            log.append({name: last[name] for name in COUNTERS if name in last} | line)
    if settings.run.report:
        from rl_system.report import write_report

        rows.append(("report", str(write_report([directory.path], directory.report))))
    console.print(summary(rows), soft_wrap=True)


def evaluate_checkpoint(
    directory: RunDirectory,
    settings: Settings,
    checkpoint: Path,
    name: str,
    *,
    episodes: int | None = None,
    difficulty: str | None = None,
    split: Any = None,
    explore: bool | None = None,
    seed: int | None = None,
    film: bool = True,
    timeout_s: float | None = None,
) -> EvaluationResult:
    """Evaluate the policy of a checkpoint, film it, and note the result in run.json.

    Args:
        directory: The run.
        settings: Its settings; None below means what its section `evaluation` says.
        checkpoint: Directory of one checkpoint.
        name: Of this evaluation; one of the same name is replaced.
        episodes: How many, by default `evaluation.final_episodes`.
        difficulty: Of the distractions.
        split: "train" or "held_out" videos.
        explore: Sample actions.
        seed: Root of the seeds, by default the run's.
        film: Make a video as well.
        timeout_s: Deadline; the episodes that had ended by then count. None: no deadline.

    Raises:
        UserError: The checkpoint holds no policy, or one of other settings; or no episode ended
            before the deadline.
    """
    import torch

    from rl_system import policy as policies

    torch.set_num_threads(max(1, cpus() // 2))
    try:
        policy = policies.load_policy(checkpoint, settings)
    except policies.CheckpointError as error:
        raise UserError(str(error)) from error
    wanted = find(settings.environment.name).action_dims
    if policy.action_dims != wanted:
        raise UserError(
            f"environment.name={settings.environment.name} takes actions of {wanted} numbers, and "
            f"this run's policy gives {policy.action_dims}: name a task of as many."
        )
    result = evaluate(
        policy,
        settings,
        split,
        episodes or settings.evaluation.final_episodes or settings.evaluation.episodes,
        seed,
        directory.videos / f"{name}.mp4" if film else None,
        difficulty=difficulty,
        explore=explore,
        timeout_s=timeout_s,
    )
    found = [other for other in directory.facts().get("evaluations", []) if other["name"] != name]
    directory.note(evaluations=[*found, _record(directory, name, checkpoint, result)])
    return result


def measure_trivial_policies(
    directory: RunDirectory, settings: Settings
) -> dict[str, tuple[float, float]]:
    """Return mean and standard error of the policies that look at nothing, measured once a run."""
    cached = directory.trivial()
    if cached:
        return {name: (float(pair[0]), float(pair[1])) for name, pair in cached.items()}
    from actors.environments.trivial import measure_trivial
    from replay.seeds import seed_for

    measured = measure_trivial(
        settings.environment.name,
        settings.evaluation.trivial_episodes,
        seed_for(settings.run.seed, "trivial") % 2**32,
        settings.action_repeat,
    )
    write_json(directory.trivial_file, {name: list(pair) for name, pair in measured.items()})
    return measured


def _record(
    directory: RunDirectory, name: str, checkpoint: Path, result: EvaluationResult
) -> dict[str, Any]:
    video = result.video.relative_to(directory.path) if result.video is not None else None
    return {
        "name": name,
        "checkpoint": checkpoint.name,
        "difficulty": result.difficulty,
        "split": result.split,
        "mean": result.mean,
        "se": result.se,
        "returns": list(result.returns),
        "video": str(video) if video is not None else None,
    }
