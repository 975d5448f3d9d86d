"""The one dictionary of metrics: what each name means, in which unit, and when to warn.

The progress line, metrics.jsonl, TensorBoard, Tune and the report all read the same flat names. A
name is left out of a line while there is nothing to say (no return before the first episode).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Line = Mapping[str, Any]  # one iteration's metrics: one line of metrics.jsonl


@dataclass(frozen=True)
class Metric:
    """One name of the dictionary."""

    name: str
    unit: str
    help: str


METRICS: tuple[Metric, ...] = (
    Metric("agent_steps", "agent steps", "actions taken by the actors since the run began"),
    Metric("simulator_steps", "simulator steps", "physics control steps behind them"),
    Metric("episodes", "episodes", "episodes that ended"),
    Metric("updates", "updates", "updates of the learner"),
    Metric("elapsed_s", "s", "seconds of training, earlier lives of a resumed run included"),
    Metric("train/return_mean", "return", "mean of the recent episodes, exploration included"),
    Metric("train/return_se", "return", "standard error of that mean over episodes"),
    Metric("eval/return_mean", "return", "mean of an evaluation: own episodes, own seeds"),
    Metric("eval/return_se", "return", "standard error of that mean over episodes"),
    Metric("eval/return_min", "return", "lowest return of the evaluation"),
    Metric("eval/return_max", "return", "highest return of the evaluation"),
    Metric("eval/episodes", "episodes", "episodes of the evaluation"),
    Metric("eval/updates", "updates", "updates behind the weights that were evaluated"),
    Metric("twin/return_mean", "return", "the same at evaluation.distracted_twin, after the run"),
    Metric("twin/return_se", "return", "standard error of that mean over episodes"),
    Metric("trivial/best_return", "return", "best of the policies that look at nothing"),
    Metric("loss/model", "-", "J_M, the weighted sum of the world model's losses"),
    Metric("loss/contrastive", "nats", "L_c; log of the number of pairs means: nothing learned"),
    Metric("loss/reconstruction", "nats", "pixel decoder, summed over pixels, less a constant"),
    Metric("loss/kl", "nats", "L_KL with its floor: CoRe's balanced and per step, CVRL's a mean"),
    Metric("loss/reward", "-", "reward prediction"),
    Metric("loss/inverse", "-", "inverse dynamics: the action between two states"),
    Metric("loss/critic", "-", "J_Q, squared Bellman error of both critics"),
    Metric("loss/actor", "-", "the actor's loss"),
    Metric("loss/sac_policy", "-", "SAC's share of it, before its weight (CVRL)"),
    Metric("loss/value", "-", "half the squared error of the value network (CVRL)"),
    Metric("imagination/reward", "scaled reward", "mean reward that the model imagines"),
    Metric("imagination/return", "scaled return", "mean lambda-return of imagined states"),
    Metric("imagination/value", "scaled return", "mean of the value network on them"),
    Metric("alpha", "-", "temperature of the policy's entropy"),
    Metric("policy/entropy", "nats", "minus the mean log probability of sampled actions"),
    Metric("value/mean", "scaled return", "mean of the critics on the batch"),
    Metric("value/target", "scaled return", "mean of their targets"),
    Metric("importance/mean", "fraction", "mean importance weight of a batch, the largest is 1"),
    Metric("priority/mean", "scaled return", "mean of the new priorities: size of the TD errors"),
    Metric("contrastive/log_pairs", "nats", "log of the candidates of each pair"),
    Metric("contrastive/accuracy", "fraction", "pairs whose right partner scores highest"),
    Metric("contrastive/inverse_temperature", "-", "lambda, learned"),
    Metric(
        "contrastive/same_sequence_mass",
        "fraction",
        "probability given to other steps of the state's own sequence (CVRL)",
    ),
    Metric(
        "contrastive/other_sequences_mass",
        "fraction",
        "probability given to steps of other sequences (CVRL)",
    ),
    Metric("reconstruction/pixel_error", "-", "root mean square error of pixels in [0, 1]"),
    Metric("kl/nats", "nats", "KL of posterior and prior before the floor"),
    Metric("kl/at_floor_fraction", "fraction", "steps whose KL lies at or below the free nats"),
    Metric("gradient_norm/model", "-", "norm of the model's gradient before the clip"),
    Metric("gradient_norm/critic", "-", "norm of the critics' gradient before the clip"),
    Metric("gradient_norm/actor", "-", "norm of the actor's gradient before the clip"),
    Metric("gradient_norm/value", "-", "norm of the value network's gradient before the clip"),
    Metric("gradient_norm/alpha", "-", "norm of the temperature's gradient before the clip"),
    Metric("rate/agent_steps_per_s", "1/s", "agent steps of all actors"),
    Metric("rate/updates_per_s", "1/s", "updates of the learner"),
    Metric("learner/busy_percent", "%", "share of its time in which the learner updated"),
    Metric("learner/wait_s", "s", "seconds the learner waited for batches"),
    Metric("learner/driver_wait_s", "s", "seconds the learner waited for the driver's next call"),
    Metric("actor/busy_percent", "%", "share of their time in which actors stepped"),
    Metric("actor/policy_ms", "ms", "the policy's time per agent step, planning included"),
    Metric("actor/wait_s", "s", "seconds that actors were held back by replay, all together"),
    Metric("actor/driver_wait_s", "s", "seconds that actors waited for the driver, all together"),
    Metric("actor/write_waits", "-", "writes that found no room in flight, since actors began"),
    Metric("actor/write_wait_s", "s", "seconds of those, all actors together"),
    Metric("actor/chunks_in_flight", "chunks", "sent and not yet acknowledged, all together"),
    Metric("learner/read_waits", "-", "batches not there when asked for, since the reader began"),
    Metric("learner/read_wait_s", "s", "seconds of those; hidden as long as batches lie ready"),
    Metric("learner/mapped_shards", "shards", "shards whose memory the learner reads directly"),
    Metric("learner/uploaded_agent_steps", "agent steps", "copied to the learner's mirror so far"),
    Metric(
        "wait/actors_for_learner_percent", "%", "of actors' time: replay held new episodes back"
    ),
    Metric("wait/actors_for_driver_percent", "%", "of actors' time: until the driver's call"),
    Metric("wait/learner_for_actors_percent", "%", "of the learner's: too little was inserted yet"),
    Metric("wait/learner_for_replay_percent", "%", "of the learner's: batches were on their way"),
    Metric(
        "wait/learner_for_driver_percent", "%", "of the learner's: until the driver's next call"
    ),
    Metric("actor/restarts", "-", "times an actor began anew, after an error or as a new process"),
    Metric("weights/version", "updates", "updates behind the newest published weights"),
    Metric(
        "weights/age_updates", "updates", "updates made since the weights in use, mean of steps"
    ),
    Metric("weights/age_updates_max", "updates", "the same where it was the most"),
    Metric("replay/agent_steps", "agent steps", "agent steps stored now"),
    Metric("replay/episodes", "episodes", "episodes stored now, unfinished ones included"),
    Metric("replay/finished_episodes", "episodes", "episodes that ever came in with their end"),
    Metric("replay/fill_percent", "%", "share of the capacity in use"),
    Metric("replay/bytes_resident", "bytes", "memory of the stored steps"),
    Metric("replay/bytes_capacity", "bytes", "memory when full"),
    Metric("replay/bytes_aside", "bytes", "kept for a save though it left the table"),
    Metric("replay/waiting_samples", "-", "batches that wait at this moment"),
    Metric("replay/removed_agent_steps", "agent steps", "agent steps removed as the oldest"),
    Metric("replay/inserted_agent_steps", "agent steps", "agent steps that ever came in"),
    Metric("replay/sampled_agent_steps", "agent steps", "agent steps that went out in batches"),
    Metric(
        "replay/limited_inserted_agent_steps",
        "agent steps",
        "inserted while the limiter's present numbers held",
    ),
    Metric("replay/limited_sampled_agent_steps", "agent steps", "sampled while they held"),
    Metric("replay/samples_per_insert", "-", "agent steps sampled per agent step inserted"),
    Metric("replay/insert_waits", "-", "writes held back because sampling lags behind"),
    Metric("replay/insert_wait_s", "s", "seconds of those waits since the run began"),
    Metric("replay/sample_waits", "-", "batches held back because inserts lag behind"),
    Metric("replay/sample_wait_s", "s", "seconds of those waits since the run began"),
    Metric("replay/limiter_error_agent_steps", "agent steps", "distance from the exact ratio"),
    Metric("replay/redrawn_sequences", "-", "drawn anew, overwritten before they were copied"),
    Metric("replay/repeated_chunks", "-", "chunks that came twice and were stored once"),
    Metric("replay/gaps", "-", "episodes closed because a chunk was missing"),
    Metric("replay/restarts", "-", "times a shard was started again"),
    Metric("replay/lost_agent_steps", "agent steps", "agent steps lost by those restarts"),
    Metric("replay/skipped_agent_steps", "agent steps", "agent steps lost in damaged files"),
)

UNITS: dict[str, str] = {metric.name: metric.unit for metric in METRICS}

STUCK_UPDATES = 1000  # a loss has to sit still for so many updates before it is worth a warning
STUCK_SHARE = 0.02  # "at log N" means within this share of it
STARVED_PERCENT = 50.0  # a learner or actor busy for less than this waits more than it works
STARVED_LINES = 6  # lines of metrics in a row before starving is worth a warning

WAITS = {  # who waits for whom
    "wait/actors_for_learner_percent": "actors wait for the learner",
    "wait/learner_for_actors_percent": "the learner waits for actors",
    "wait/learner_for_replay_percent": "the learner waits for replay",
    "wait/actors_for_driver_percent": "actors wait for the driver",
    "wait/learner_for_driver_percent": "the learner waits for the driver",
}
WORTH_PERCENT = 1.0  # a shorter wait is not told


def flat_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the entries that are plain finite numbers; booleans and the rest are left out."""
    return {
        name: value
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def who_waits(history: Sequence[Line]) -> str | None:
    """Return who waits for whom, the longest wait first, as means over the lines that say it.

    Such as "actors wait for the learner 37 % of the time, the learner waits for replay 2 %"; None
    if no line says anything.
    """
    shares = {}
    for name, text in WAITS.items():
        known = [line[name] for line in history if name in line]
        if known:
            shares[text] = sum(known) / len(known)
    if not shares:
        return None
    told = sorted(shares.items(), key=lambda item: -item[1])
    parts = [f"{text} {share:.0f} %" for text, share in told if share >= WORTH_PERCENT]
    if not parts:
        return "nobody waits"
    return ", ".join([f"{parts[0]} of the time", *parts[1:]])


def table() -> str:
    """Return the names, units and meanings as a Markdown table, for the documentation."""
    rows = [f"| `{metric.name}` | {metric.unit} | {metric.help} |" for metric in METRICS]
    return "\n".join(["| name | unit | meaning |", "|---|---|---|", *rows])


def warnings(history: Sequence[Line]) -> list[str]:
    """Return what looks wrong at the end of a run's history, in sentences; none if all is well.

    Args:
        history: Lines of metrics, oldest first. Only the last STUCK_UPDATES updates (for losses)
            and STARVED_LINES lines (for waits) count.
    """
    if not history:
        return []
    found = []
    last = history[-1]
    broken = sorted(
        name
        for name, value in last.items()
        if name.startswith("loss/") and isinstance(value, float) and not math.isfinite(value)
    )
    if broken:
        found.append(
            f"{', '.join(broken)} is not finite: the run has diverged. Lower learner.model_rate "
            "or go back to a checkpoint."
        )
    recent = _since_updates(history, STUCK_UPDATES)
    if recent and all(_at_log_pairs(line) for line in recent):
        found.append(
            f"The contrastive loss has sat at log N ({last['contrastive/log_pairs']:.2f}) for "
            f"{STUCK_UPDATES} updates or more: the model has not begun to tell frames apart. It "
            "often lets go after a few thousand updates; else try a lower "
            "objective.inverse_temperature_init or another learner.model_rate."
        )
    if recent and all(line.get("kl/at_floor_fraction", 0.0) >= 0.95 for line in recent):
        found.append(
            f"The KL has been at its floor of free nats for {STUCK_UPDATES} updates or more: the "
            "latent state carries almost nothing. Lower objective.free_nats or "
            "objective.kl_scale if it stays."
        )
    lately = history[-STARVED_LINES:]
    if len(lately) == STARVED_LINES:
        learner_idle = all(_idle(line, "learner/busy_percent") for line in lately)
        actor_idle = all(_idle(line, "actor/busy_percent") for line in lately)
        driver_s = sum(line.get("learner/driver_wait_s", 0.0) for line in lately)
        data_s = sum(line.get("learner/wait_s", 0.0) for line in lately)
        if learner_idle and driver_s > data_s:
            found.append(
                f"The learner waits for the driver ({last['learner/busy_percent']:.0f} % busy): "
                "the driver's machine is overloaded. Give the learner a process of its own "
                "(learner.count=1), or keep other work off the driver's cores."
            )
        elif learner_idle and actor_idle:
            found.append(
                "Learner and actors both wait most of the time: something between them is slow. "
                "Look at replay/insert_wait_s and replay/sample_wait_s; raise "
                "replay.requests_in_flight or replay.shards."
            )
        elif learner_idle:
            found.append(
                f"The learner waits for data ({last['learner/busy_percent']:.0f} % busy): raise "
                "actors.count, or learner.updates_per_agent_step for more updates on the same "
                "data."
            )
    for name, text in (
        ("replay/restarts", "A replay shard died and was started again"),
        ("actor/restarts", "An actor failed and began anew"),
    ):
        earlier = history[-STARVED_LINES - 1] if len(history) > STARVED_LINES else {}
        times = int(last.get(name, 0) - earlier.get(name, 0))
        if times > 0:
            found.append(
                f"{text} ({times} times lately, {int(last[name])} in all): see Ray's logs."
            )
    return found


def _since_updates(history: Sequence[Line], updates: int) -> list[Line]:
    """Return the lines with losses over the last `updates` updates; none if the run is younger."""
    lines = [line for line in history if "loss/contrastive" in line or "kl/nats" in line]
    if not lines or lines[-1].get("updates", 0) - lines[0].get("updates", 0) < updates:
        return []
    begin = lines[-1]["updates"] - updates
    return [line for line in lines if line["updates"] >= begin]


def _at_log_pairs(line: Line) -> bool:
    loss, log_pairs = line.get("loss/contrastive"), line.get("contrastive/log_pairs")
    if loss is None or not log_pairs:
        return False
    return bool(abs(loss / log_pairs - 1.0) <= STUCK_SHARE)


def _idle(line: Line, name: str) -> bool:
    """Whether a side waits more than it works; filling replay at the start does not count."""
    return line.get("updates", 0) > 0 and line.get(name, 100.0) < STARVED_PERCENT
