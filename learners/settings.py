"""Settings of models, objectives, behaviour and optimisation: CoRe's, and what systems share.

The defaults are the numbers that produced CoRe's published results (paper Table 5 and the
released configuration); where paper and released code differ the default follows the code and the
comment says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from learners.checks import ConvolutionalSection, Section

CONV_INITS = ("delta_orthogonal", "kaiming")
DECODE_FROM = ("prior", "posterior")
NEGATIVES = ("all", "same_sequence", "other_sequences")
REDUCTIONS = ("mean", "sum")
REWARD_LOSSES = ("huber", "squared")
UPDATE_ORDERS = ("sequential", "fused")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class ModelSettings(ConvolutionalSection):
    """Shapes of the encoder, the recurrent state-space model and its heads."""

    conv_channels: tuple[int, ...] = (32, 32, 32, 32)  # output channels of each convolution
    conv_kernels: tuple[int, ...] = (3, 3, 3, 3)  # kernel side of each convolution
    conv_strides: tuple[int, ...] = (2, 1, 1, 1)  # stride of each convolution
    conv_paddings: tuple[int, ...] = (0, 0, 0, 0)  # zero padding of each convolution
    conv_init: str = "delta_orthogonal"  # or "kaiming": tiny encoders learn small objects sooner
    feature_dims: int = 50  # image features of x_t, layer-normalised; the contrastive targets
    # ELU layers of the proprioception encoder, whose output x_t has behind its image features
    proprioception_dims: tuple[int, ...] = (200, 200, 200)
    embedding_dims: int = 256  # image embedding that the posterior reads
    recurrent_dims: int = 200  # deterministic state h_t of the GRU
    latent_dims: int = 64  # stochastic state s_t, diagonal Gaussian
    hidden_dims: int = 400  # hidden layers of the GRU input, prior and posterior
    decoder_dims: int = 256  # hidden layers of the observation-feature decoder g
    head_dims: int = 128  # hidden layers of the reward and inverse-dynamics heads

    def problems(self) -> list[str]:
        """Return what cannot work in these shapes."""
        return super().problems() + self.not_among({"conv_init": CONV_INITS})

    def observation_dims(self, proprioception_size: int = 0) -> int:
        """Return the size F of the observation features x_t: image, then proprioception if any."""
        if not proprioception_size:
            return self.feature_dims
        return self.feature_dims + (proprioception_size, *self.proprioception_dims)[-1]


@dataclass(frozen=True)
class ObjectiveSettings(Section):
    """Weights and forms of the world-model losses (paper section 2.2)."""

    section = "objective"

    contrastive_scale: float = 1.0  # weight of L_c (Eq. 1)
    kl_scale: float = 0.01  # beta, weight of L_KL (Eq. 2)
    reward_scale: float = 1.0  # alpha_r, weight of the reward prediction loss
    inverse_scale: float = 1.0  # alpha_a, weight of the inverse-dynamics loss
    kl_balance: float = 0.5  # share of the gradient that moves the posterior (code; paper: plain)
    free_nats: float = 1.0  # each (t, b) KL below this many nats earns no gradient (code)
    decode_from: str = "prior"  # state that predicts the features: "prior" (paper) or "posterior"
    contrastive_reduction: str = "mean"  # "mean": halved means (code); "sum": Eq. 1 as printed
    negatives: str = "all"  # "all", "same_sequence" or "other_sequences"
    # with several learners: the steps of all of them are negatives, or of each only its own
    gather_negatives: bool = True
    reward_loss: str = "huber"  # "huber" (code) or "squared" (paper)
    inverse_temperature_init: float = 1.0  # before the softplus: lambda starts at 1.3133
    critic_gradient_to_model: bool = True  # the Bellman error (Eq. 3) also trains the model

    def problems(self) -> list[str]:
        """Return what cannot work in these losses."""
        return [
            *super().problems(),
            *self.not_among(
                {
                    "decode_from": DECODE_FROM,
                    "contrastive_reduction": REDUCTIONS,
                    "negatives": NEGATIVES,
                    "reward_loss": REWARD_LOSSES,
                }
            ),
            *self.not_zero_or_more(*self.names_ending("_scale"), "free_nats"),
            *self.not_from_zero_to_one("kl_balance"),
        ]


@dataclass(frozen=True)
class SACSettings(Section):
    """Soft actor-critic on the latent state: what every system that uses it can set."""

    section = "behavior"

    discount: float = 0.99  # gamma per agent step
    target_rate: float = 0.005  # tau of the target critics' moving average
    log_alpha_init: float = -2.3  # initial log temperature (alpha 0.1003)
    log_alpha_max: float = 3.0  # upper clamp of the log temperature
    target_entropy: float | None = None  # null: minus the number of action dimensions
    reward_divisor: float = 1.0  # rewards are divided by this before every loss (small presets)
    # replay.sampler=prioritised: share of a window's largest TD error in its priority, the rest is
    # its mean (eta of R2D2)
    priority_max_share: float = 0.9
    priority_epsilon: float = 1e-6  # added to every priority, so that none is 0

    def problems(self) -> list[str]:
        """Return what cannot work in this behaviour."""
        problems = [
            *super().problems(),
            *self.not_above_zero("reward_divisor", "priority_epsilon"),
            *self.not_from_zero_to_one("discount", "target_rate", "priority_max_share"),
            *self.without_units(*self.names_ending("_dims")),
        ]
        if self.log_alpha_init > self.log_alpha_max:
            problems.append(
                f"behavior.log_alpha_init ({self.log_alpha_init}) is above behavior.log_alpha_max "
                f"({self.log_alpha_max}): lower the first or raise the second."
            )
        return problems


@dataclass(frozen=True)
class BehaviorSettings(SACSettings):
    """CoRe's soft actor-critic (paper section 2.3)."""

    actor_dims: tuple[int, ...] = (1024, 1024, 1024)  # hidden ReLU layers of the actor
    critic_dims: tuple[int, ...] = (1024, 1024, 1024)  # hidden ReLU layers of each critic
    log_std_min: float = -10.0  # lower bound of the actor's log standard deviation
    log_std_max: float = 2.0  # upper bound of the actor's log standard deviation
    mean_bound: float = 5.0  # the actor's mean is bound * tanh(mean / bound) before squashing

    def problems(self) -> list[str]:
        """Return what cannot work in this behaviour."""
        problems = super().problems() + self.not_above_zero("mean_bound")
        if self.log_std_min > self.log_std_max:
            problems.append(
                f"behavior.log_std_min ({self.log_std_min}) is above behavior.log_std_max "
                f"({self.log_std_max}): lower the first or raise the second."
            )
        return problems


@dataclass(frozen=True)
class TrainingSettings(Section):
    """Batches, the pace of updates and the machine: what every system's learner can set."""

    section = "learner"

    batch_size: int = 32  # B, windows in a batch
    sequence_length: int = 32  # T, agent steps in a window
    updates_per_agent_step: float = 0.5  # update ratio; times B*T it is the samples per insert
    crop_size: int = 84  # side of the square crop that the encoder sees, pixels
    random_crop: bool = True  # one random crop per window while training; centre crop otherwise
    weight_decay: float = 0.0  # L2 added to the gradients of weight matrices; biases are exempt
    publish_updates: int = 50  # weights go to the hub after this many updates
    prefetch_batches: int = 3  # batches held ready beside the one in use
    # keep replay in the device's memory too, where it fits: each step is uploaded once
    mirror_replay: bool = False
    report_updates: int = 50  # losses are read back (one device sync) every so many updates
    device: str = "auto"  # "auto", "cpu" or "cuda"
    precision: str = "auto"  # of the pixel encoder: "auto", "float32" or "bfloat16"
    # on a GPU: record the whole update once and replay it, so that its kernels start without gaps;
    # off until it has been measured on one
    cuda_graph: bool = False
    # torch.compile of the crops (one kernel from bytes to float) and of steps over time: fewer
    # kernels on a GPU; no clear gain on a CPU
    compile_kernels: bool = False
    # on a CPU: the process keeps memory that it frees, for the next update (glibc): large updates
    # then touch few new pages, and the process stays as large as its largest update
    keep_freed_memory: bool = True
    torch_threads: int = 1  # threads of the learner process on a CPU
    # learner processes, each with an equal part of every batch; 0 keeps the learner in the driver
    count: int = 1

    def problems(self) -> list[str]:
        """Return what cannot work in this training."""
        problems = [
            *super().problems(),
            *self.not_among({"device": DEVICES, "precision": PRECISIONS}),
            *self.not_above_zero(
                "batch_size",
                "updates_per_agent_step",
                "crop_size",
                "publish_updates",
                "prefetch_batches",
                "report_updates",
                "torch_threads",
                *self.names_ending("_clip"),
            ),
            *self.not_zero_or_more("weight_decay", "count", *self.names_ending("_rate")),
            *self.below(2, "sequence_length"),
        ]
        learners = max(1, self.count)
        if self.batch_size % learners:
            near = max(learners, round(self.batch_size / learners) * learners)
            problems.append(
                f"learner.batch_size ({self.batch_size}) is no multiple of learner.count "
                f"({learners}): every learner takes an equal part. Set it to {near}."
            )
        return problems


@dataclass(frozen=True)
class LearnerSettings(TrainingSettings):
    """CoRe's updates: their order, learning rates and clips."""

    update_order: str = "sequential"  # "sequential" (paper) or "fused" (one forward and backward)
    model_rate: float = 3e-4  # Adam learning rate of the model
    critic_model_rate: float | None = None  # rate of the critic's step on the model; null: as model
    inverse_temperature_rate: float = 2e-3  # Adam learning rate of the contrastive temperature
    actor_rate: float = 1e-3  # Adam learning rate of the actor
    critic_rate: float = 1e-3  # Adam learning rate of the critics
    alpha_rate: float = 1e-3  # Adam learning rate of the log temperature
    alpha_beta1: float = 0.5  # Adam beta1 of the log temperature
    model_clip: float = 10.0  # gradient-norm clip of the model step
    critic_clip: float = 100.0  # gradient-norm clip of the critics (their MLPs only)
    actor_clip: float = 10.0  # gradient-norm clip of the actor
    alpha_clip: float = 1.0  # gradient-norm clip of the log temperature

    def problems(self) -> list[str]:
        """Return what cannot work in this training."""
        return [
            *super().problems(),
            *self.not_among({"update_order": UPDATE_ORDERS}),
            *self.not_from_zero_below_one("alpha_beta1"),
        ]
