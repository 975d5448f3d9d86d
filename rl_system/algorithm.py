"""The systems as RLlib algorithms: their configurations, and the driver that only conducts.

    config = CoReConfig().environment("dcs/cartpole-swingup").env_runners(num_env_runners=8)
    algorithm = config.build_algo()
    print(algorithm.train()["metrics"])

or `tune.Tuner(CoRe, param_space=config)`, with search spaces anywhere in the settings; CVRL and
PixelSAC likewise. The driver asks actors and learner to go on, adds up what they report, evaluates
and saves. No frame and no weight passes through it: actors write to replay shards, the learner
reads from them and publishes weights to the hub.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any, ClassVar, Self

# Chooses the OpenGL library, before RLlib imports dm_control.
from actors.environments.settings import EnvironmentSettings

# isort: split
import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES_LIFETIME,
)
from ray.tune import PlacementGroupFactory

from actors.runner import StreamingEnvRunner, actor_groups
from learners.learner import SystemLearner, SystemLearnerGroup
from learners.module import AgentModule
from rl_system.builder import INSTEAD, SettingsBuilder, split_values
from rl_system.checkpointed import Checkpointed
from rl_system.cluster import start_ray
from rl_system.conducting import LEARNER_SLICE_S, LOCAL_LEARNER_SLICE_S, Conducting
from rl_system.evaluator import EvaluationSchedule
from rl_system.placement import acting_options, check_nodes
from rl_system.plane import (
    DataPlane,
    explain_actors,
    living_shards,
    place_of,
    shared_settings,
)
from rl_system.policy import load_policy
from rl_system.resources import (
    DRIVER_CPUS,
    check_supported,
    gpus_per_learner,
    required_cpus,
    settled,
    shard_bundles,
    wait_for_resources,
)
from rl_system.settings import EvaluationSettings
from rl_system.tally import Tally
from rl_system.watch import Watch, explain_learner

__all__ = [
    "ALGORITHMS",
    "CONFIGS",
    "CVRL",
    "CVRLConfig",
    "CoRe",
    "CoReConfig",
    "PixelSAC",
    "PixelSACConfig",
    "load_policy",
    "required_cpus",
]

logger = logging.getLogger(__name__)

CLEANUP_S = 20.0  # how long the learner may take to end by itself


class SystemConfig(SettingsBuilder, AlgorithmConfig):
    """Configuration of a system: RLlib's, plus one nested dictionary `settings`.

    `settings` has the sections of `rl_system.settings.Settings` and holds only what differs from
    the system's defaults (`rl_system.config.default_settings`); any value may be a search space of
    Tune. It is checked by `validate`, which RLlib calls when the algorithm is built, and then
    RLlib's own fields (environment, number of env runners and learners, seed, resources) are set
    from it: where both speak, `settings` wins.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or ALGORITHMS[self.system])
        self.settings = {"run": {"system": self.system}}
        self.plane: dict[str, Any] = {}  # what actors and learner find each other by; set at build
        self.directory: str | None = None  # for snapshots of replay, see `from_settings`
        self.run_name: str | None = None  # in Ray, see `from_settings`
        self.gpus_of_learner: float | None = None  # as `learners` was told; None: by learner.device
        self.env_runner_cls = StreamingEnvRunner
        self.create_local_env_runner = False
        self.max_requests_in_flight_per_env_runner = 2
        self.max_requests_in_flight_per_learner = 2
        # RLlib's 30 s would stop the driver, and with it every healthy actor, while one restarts.
        self.env_runner_health_probe_timeout_s = 0.05
        self.restart_failed_env_runners = True
        self.delay_between_env_runner_restarts_s = 1.0
        self.min_time_s_per_iteration: float | None = 5.0
        self.num_cpus_for_main_process = DRIVER_CPUS
        self._dont_auto_sync_env_runner_states = True
        self.merge_env_runner_states = False
        self.broadcast_env_runner_states = False

    # Settings -----------------------------------------------------------------------------------

    def environment(self, env: Any = NotProvided, **values: Any) -> Self:
        """Names the task, such as "dcs/cartpole-swingup"; takes EnvironmentSettings' values too."""
        own, rllib = split_values(values, EnvironmentSettings)
        if env is not NotProvided:
            own["name"] = env
        super().environment(**rllib)
        return self.settings_update(environment=own)

    def env_runners(self, **values: Any) -> Self:
        """RLlib's, with the numbers of actors, their environments and CPUs in `settings`."""
        names = {
            "num_env_runners": "count",
            "num_envs_per_env_runner": "environments_per_actor",
            "num_cpus_per_env_runner": "num_cpus_per_actor",
        }
        self.settings_update(actors={names[k]: values.pop(k) for k in list(values) if k in names})
        super().env_runners(**values)
        return self

    def learners(self, **values: Any) -> Self:
        """RLlib's, with the number of learner processes kept in `settings`.

        `num_gpus_per_learner` wins over what `learner.device` would take.
        """
        if "num_learners" in values:
            self.settings_update(learner={"count": values.pop("num_learners")})
        self.gpus_of_learner = values.get("num_gpus_per_learner", self.gpus_of_learner)
        super().learners(**values)
        return self

    def evaluation(self, **values: Any) -> Self:
        """Changes values of EvaluationSettings; RLlib's own evaluation options stay available."""
        own, rllib = split_values(values, EvaluationSettings)
        super().evaluation(**rllib)
        return self.settings_update(evaluation=own)

    def debugging(self, **values: Any) -> Self:
        """RLlib's, with the seed kept in `settings`."""
        if "seed" in values:
            self.settings_update(run={"seed": values.pop("seed")})
        super().debugging(**values)
        return self

    # What RLlib calls ---------------------------------------------------------------------------

    def update_from_dict(self, config_dict: Mapping[str, Any]) -> Self:
        """As RLlib's; `settings` given in part changes only what it names."""
        values = dict(config_dict)
        sections = values.pop("settings", {})
        for name in INSTEAD.keys() & values.keys():
            if (value := values.pop(name)) != getattr(self, name, None):
                self.training(**{name: value})
        super().update_from_dict(values)
        return self.settings_update(**sections)

    def validate(self) -> None:
        """Checks the settings and sets RLlib's own fields from them.

        Raises:
            SettingsError: see `resolved`; and for what this algorithm cannot do yet.
        """
        settings = self.resolved()
        self.check_system(settings)
        check_supported(settings, self.gpus_of_learner)
        if not self._is_frozen:
            self.env = settings.environment.name
            self.num_env_runners = settings.actors.count
            self.num_cpus_per_env_runner = settings.actors.num_cpus_per_actor
            self.num_learners = settings.learner.count
            given = self.gpus_of_learner
            self.num_gpus_per_learner = gpus_per_learner(settings) if given is None else given
            self.seed = settings.run.seed % 2**31  # RLlib seeds NumPy's old generator with it
            self.min_time_s_per_iteration = settings.run.iteration_s
        super().validate()

    def build_algo(self, *arguments: Any, **values: Any) -> Algorithm:
        """Builds the algorithm; starts Ray on this machine first if none runs or is named.

        Ray's own start would offer one CPU a core, on a small machine fewer than the processes of
        a run reserve, and the build would wait for the rest.
        """
        if not ray.is_initialized() and "RAY_ADDRESS" not in os.environ:
            settings = self.resolved()
            start_ray(settings, required_cpus(settings))
        return super().build_algo(*arguments, **values)

    def build_learner_group(
        self,
        *,
        env: Any = None,
        spaces: Any = None,
        rl_module_spec: Any = None,
        placement_group: Any = None,
    ) -> SystemLearnerGroup:
        """As RLlib's; of a group that cannot be built nothing is left."""
        return SystemLearnerGroup(
            config=self.copy(),
            module_spec=rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces),
            placement_group=placement_group,
        )

    def get_default_learner_class(self) -> type:
        """Returns the learner of all systems."""
        return SystemLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Returns the module of all systems with the settings of this one."""
        names = ("system", "model", "objective", "behavior", "learner")
        plane = self.plane or shared_settings(self.resolved())
        return RLModuleSpec(module_class=AgentModule, model_config={n: plane[n] for n in names})


class SystemAlgorithm(Conducting, Checkpointed, Algorithm):
    """A system, distributed: actors stream to replay shards, a learner trains, the driver conducts.

    `train()` returns RLlib's result with the flat dictionary `metrics` (rl_system/metrics.py).
    Checkpoints hold weights, optimisers, random states, counters, and replay or where its snapshot
    lies (`replay.checkpoint`).
    """

    config: SystemConfig
    system: ClassVar[str]

    @classmethod
    def get_default_config(cls) -> SystemConfig:
        """Returns the system's configuration, with the paper's numbers where nothing is said."""
        return CONFIGS[cls.system]()

    @classmethod
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        """Returns RLlib's bundles with one for each replay shard at the end."""
        request = super().default_resource_request(config)
        settings = cls.get_default_config().update_from_dict(config).resolved()
        bundles = [*request.bundles, *shard_bundles(settings)]
        return PlacementGroupFactory(bundles, strategy=request.strategy)

    # Start and end ------------------------------------------------------------------------------

    def setup(self, config: SystemConfig) -> None:
        """Starts shards, hub, actors, learner and evaluator.

        Raises:
            SettingsError, ReplayError: what is asked for cannot work here; nothing is left running,
                except living shards of an earlier life.
            RunError: another process of the cluster conducts this run.
        """
        settings = self.config.resolved()
        self._tally = Tally()
        self._watch = Watch(settings)
        self._generation = 0  # grows when the run is put back to a checkpoint
        self._first_update_agent_steps: int | None = None
        self._leave_shards = False  # alive, when this object is stopped
        try:
            asked = self.config.run_name, self.config.directory
            prefix, folder, lasting = place_of(self._storage, *asked, self.logdir)
            living = len(living_shards(prefix))
            others = super().default_resource_request(self.config.to_dict()).bundles
            settings = self._settings = settled(settings, len(others), living)
            self._give_plane(prefix)
            self._token = ray.put(None)
            bundles = others if living else [*others, *shard_bundles(settings)]
            check_nodes(settings)
            wait_for_resources(bundles, settings.run.startup_timeout_s)
            self._plane = DataPlane.start(settings, prefix, folder, lasting)
            self._schedule = EvaluationSchedule(prefix, settings, self._plane.action_dims)
            with actor_groups():
                super().setup(config)
            self._reconnect()  # publishes the first weights
        except BaseException as error:
            # Shards of an earlier life are left as they were found.
            self._leave_shards = hasattr(self, "_plane") and self._plane.adopted
            try:
                if isinstance(error, IndexError):  # RLlib's word for: no env runner could be made
                    explain_actors(settings, error)
            finally:
                self.cleanup()
            raise
        self._tally.begin()
        self._watch.restart()

    def cleanup(self) -> None:
        """Ends every process of this run.

        If one of them has died, shards live on for a while (`replay.detached`), so that the run can
        be started again with what they hold.
        """
        if getattr(self, "learner_group", None) is not None:
            try:  # its reader withdraws what it asked of the shards before they go
                self.learner_group.foreach_learner(
                    lambda learner: learner.end(), timeout_seconds=CLEANUP_S
                )
            except Exception:
                logger.warning("The learner did not end by itself.", exc_info=True)
        super().cleanup()
        if hasattr(self, "_plane"):
            self._schedule.stop()
            if self._leave_shards:
                self._plane.leave()
            else:
                self._plane.stop()
        if not self._storage:
            shutil.rmtree(self.logdir, ignore_errors=True)

    def _setup_logdir(self) -> None:
        # RLlib's own would be a new folder in the user's home for every run.
        if self._storage:
            super()._setup_logdir()
        else:
            self._logdir = tempfile.mkdtemp(prefix="core-")

    # Conducting ---------------------------------------------------------------------------------

    def step(self) -> dict[str, Any]:
        """Runs one iteration of RLlib and adds the flat `metrics`."""
        try:
            result = super().step()
        except RayActorError:
            self._leave_shards = True
            raise
        except RayTaskError as error:
            explained = explain_learner(error, len(self.learner_group))
            if explained is None:
                raise
            self._leave_shards = True
            raise explained from error
        try:
            stats = self._plane.replay.stats(timeout_s=10.0)
        except (TimeoutError, RuntimeError) as error:
            logger.warning("Replay gave no counts: %s", error)
            stats = {}
        capacity = self._settings.replay.capacity_agent_steps
        result["metrics"] = self._tally.take_metrics(stats, capacity)
        return result

    def _learn_on(self) -> None:
        if self.learner_group.is_local:
            self._learn(seconds=LOCAL_LEARNER_SLICE_S)
            return
        answers = self.learner_group.update(
            training_data=TrainingData(batch_refs=[self._token] * len(self.learner_group)),
            async_update=True,
            seconds=LEARNER_SLICE_S,
        )
        for report in answers:
            if report is not None:  # one of those that follow the first
                self._take_learner(report)

    def _log(self, agent_steps: int, episodes: int) -> None:
        """Keeps RLlib's usual names filled, for its stopping criteria and for Tune."""
        tally = self._tally
        values = {
            (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME): tally.agent_steps - agent_steps,
            (ENV_RUNNER_RESULTS, NUM_EPISODES_LIFETIME): tally.episodes - episodes,
        }
        for key, value in values.items():
            self.metrics.log_value(key, value, reduce="lifetime_sum")
        if tally.return_mean is not None:
            key = (ENV_RUNNER_RESULTS, EPISODE_RETURN_MEAN)
            self.metrics.log_value(key, tally.return_mean, window=1)
        self.metrics.log_value(
            (LEARNER_RESULTS, DEFAULT_MODULE_ID, "updates"), tally.updates, window=1
        )

    # Evaluation ---------------------------------------------------------------------------------

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Evaluates the newest published weights now, over `evaluation.final_episodes` episodes."""
        settings = self._settings.evaluation
        return {"evaluation": self._schedule.now(settings.final_episodes or settings.episodes)}

    # Parts --------------------------------------------------------------------------------------

    def _give_plane(self, prefix: str) -> None:
        """Puts into the configuration what actors and learner are built from."""
        run = self._settings.run
        config = self.config.copy(copy_frozen=False)
        config.plane = shared_settings(self._settings) | {
            "prefix": prefix,
            "seed": run.seed,
            "deterministic": run.deterministic,
            "runtime_env": acting_options(self._settings.environment),
        }
        config.freeze()
        self.config = config


class CoReConfig(SystemConfig):
    """Configuration of CoRe (Srivastava et al. 2021); begins as the paper's, on clean pictures."""

    system = "core"


class CoRe(SystemAlgorithm):
    """Distributed CoRe."""

    system = "core"


class CVRLConfig(SystemConfig):
    """Configuration of CVRL (Ma et al. 2020) and its variants; begins as `configs/cvrl.yaml`."""

    system = "cvrl"


class CVRL(SystemAlgorithm):
    """Distributed CVRL."""

    system = "cvrl"


class PixelSACConfig(SystemConfig):
    """Configuration of SAC on stacked pictures; begins as `configs/sac.yaml`."""

    system = "sac"


class PixelSAC(SystemAlgorithm):
    """Distributed SAC on stacked pictures."""

    system = "sac"


CONFIGS: dict[str, type[SystemConfig]] = {
    kind.system: kind for kind in (CoReConfig, CVRLConfig, PixelSACConfig)
}
ALGORITHMS: dict[str, type[SystemAlgorithm]] = {
    kind.system: kind for kind in (CoRe, CVRL, PixelSAC)
}
