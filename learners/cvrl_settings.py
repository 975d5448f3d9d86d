"""Settings of CVRL: its models, objectives, behaviour and optimisation.

The defaults are the paper's numbers (Ma et al. 2020, section 3 and appendix B) and, for what the
paper leaves open, those of the released code; where both speak and differ the default follows the
paper and the comment names the code's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

from learners.checks import ConvolutionalSection, Section
from learners.settings import SACSettings, TrainingSettings

OBSERVATION_TERMS = ("contrastive", "generative", "none")
SCORES = ("bilinear", "dot")
CONTRASTIVE_STATES = ("latent", "whole")
MPC_ACTIONS = ("first", "all")
# What the actor's raw output is moved by, log(exp(init_std) - 1), is beyond a float above this.
MAX_INIT_STD = 700.0


@dataclass(frozen=True)
class CVRLModelSettings(ConvolutionalSection):
    """Shapes of the encoder, the recurrent state-space model and its heads."""

    conv_channels: tuple[int, ...] = (32, 64, 128, 256)  # output channels of each convolution
    conv_kernels: tuple[int, ...] = (4, 4, 4, 4)  # kernel side of each convolution
    conv_strides: tuple[int, ...] = (2, 2, 2, 2)  # stride of each convolution
    conv_paddings: tuple[int, ...] = (0, 0, 0, 0)  # zero padding of each convolution
    # ELU layers of the proprioception encoder, whose output x_t has behind its image features
    proprioception_dims: tuple[int, ...] = (200, 200, 200)
    recurrent_dims: int = 200  # deterministic state h_t of the GRU
    latent_dims: int = 30  # stochastic state s_t, diagonal Gaussian
    hidden_dims: int = 200  # hidden layers of the GRU input, prior and posterior
    min_std: float = 0.1  # least standard deviation of prior and posterior
    # ELU layers that embed an observation's features for the contrastive score (code: 400, 200)
    observation_code_dims: tuple[int, ...] = (200,)
    # the same of a state (code: 200, 200); the last layers of both need equal widths
    state_code_dims: tuple[int, ...] = (200,)
    reward_dims: tuple[int, ...] = (400, 400)  # hidden ELU layers of the reward head
    # of the pixel decoder: input channels of each transposed convolution; the last one gives 3
    decoder_channels: tuple[int, ...] = (1024, 128, 64, 32)
    decoder_kernels: tuple[int, ...] = (5, 5, 6, 6)  # kernel sides, each with stride 2

    @property
    def decoder_side(self) -> int:
        """Height and width of the pictures that the pixel decoder draws."""
        side = 1
        for kernel in self.decoder_kernels:
            side = 2 * (side - 1) + kernel
        return side

    def problems(self) -> list[str]:
        """Return what cannot work in these shapes."""
        problems = [
            *super().problems(),
            *self.not_above_zero("min_std"),
            *self.without_units("decoder_channels"),
            *self.without_layers("observation_code_dims", "state_code_dims", "decoder_channels"),
            *self.unequal_lengths("transposed convolution", "decoder_channels", "decoder_kernels"),
        ]
        if any(kernel < 1 for kernel in self.decoder_kernels):
            problems.append(
                f"model.decoder_kernels is {list(self.decoder_kernels)}; each entry must be 1 or "
                "more."
            )
        if self.observation_code_dims[-1:] != self.state_code_dims[-1:]:
            problems.append(
                f"The last widths of model.observation_code_dims "
                f"({list(self.observation_code_dims)}) and model.state_code_dims "
                f"({list(self.state_code_dims)}) must be equal."
            )
        return problems


@dataclass(frozen=True)
class CVRLObjectiveSettings(Section):
    """Terms of the CELBO and their weights (paper Eq. 6)."""

    section = "objective"

    # what ties states to observations: "contrastive" (CELBO), "generative" (pixel decoder, as in
    # Dreamer) or "none" (rewards alone)
    observation: str = "contrastive"
    observation_scale: float = 1.0  # weight of that term
    reward_scale: float = 1.0  # weight of the reward's log-likelihood
    kl_scale: float = 1.0  # weight of KL(posterior || prior)
    free_nats: float = 3.0  # floor of the KL's mean over the batch, nats (code)
    # f(s, o): "bilinear", exp(z^T W s') (paper), or "dot", exp(z^T s') (code)
    score: str = "bilinear"
    contrastive_state: str = "latent"  # f sees "latent" s_t (paper) or "whole" [s_t, h_t] (code)
    # the positive is among the candidates of Eq. 5's sum, as in the InfoNCE that the paper follows
    # (and in the code); false: the sum is over the other observations alone, as it is printed
    positive_among_candidates: bool = True
    # with several learners: the observations of all of them are candidates, or of each its own
    gather_negatives: bool = True

    def problems(self) -> list[str]:
        """Return what cannot work in these terms."""
        return [
            *super().problems(),
            *self.not_among(
                {
                    "observation": OBSERVATION_TERMS,
                    "score": SCORES,
                    "contrastive_state": CONTRASTIVE_STATES,
                }
            ),
            *self.not_zero_or_more(*self.names_ending("_scale"), "free_nats"),
        ]


@dataclass(frozen=True)
class CVRLBehaviorSettings(SACSettings):
    """Actor-critic from imagination and from real steps (3.2), and planning (3.3)."""

    # log temperature with which the SAC part begins; the code's, 0, never reached its actor, and as
    # the temperature of one that learns it keeps the policy near uniform
    log_alpha_init: float = -2.3
    # whether the SAC part adapts its temperature to the target entropy (code: no)
    learn_temperature: bool = True
    actor_dims: tuple[int, ...] = (400, 400, 400, 400)  # hidden ELU layers of the actor
    value_dims: tuple[int, ...] = (400, 400, 400)  # hidden ELU layers of the value network v
    critic_dims: tuple[int, ...] = (400, 400, 400)  # hidden ELU layers of each Q
    mean_scale: float = 5.0  # the actor's mean is scale * tanh(mean / scale) before squashing
    init_std: float = 5.0  # the actor's standard deviation before squashing where it begins
    min_std: float = 1e-4  # least standard deviation of the actor before squashing
    horizon: int = 15  # H, agent steps of an imagined trajectory
    return_lambda: float = 0.95  # lambda of the returns: 0 one reward and v, 1 all rewards and v
    imagination_scale: float = 1.0  # weight of the imagined returns in the actor's loss
    sac_scale: float = 1.0  # alpha of Eq. 8, weight of SAC in the actor's loss; 0: no SAC
    # the SAC part as released: Q on pairs along the batch, of which the actor learns nothing
    released_code: bool = False
    exploration_noise: float = 0.3  # standard deviation added to actions while data are collected
    mode_samples: int = 100  # samples of which the likeliest is the policy's mode; 0: tanh(mean)
    mpc: bool = True  # latent guided MPC chooses the actions, also in evaluation
    mpc_iterations: int = 1  # gradient steps on an imagined trajectory (code; paper: several)
    mpc_actions: str = "all"  # moved by each step: "all" (paper) or the "first" (code)
    mpc_step_size: float = 0.003  # of the gradient steps

    def problems(self) -> list[str]:
        """Return what cannot work in this behaviour."""
        problems = [
            *super().problems(),
            *self.not_among({"mpc_actions": MPC_ACTIONS}),
            *self.below(2, "horizon"),
            *self.not_from_zero_to_one("return_lambda"),
            *self.not_above_zero("mean_scale"),
            *self.not_zero_or_more(
                "imagination_scale",
                "sac_scale",
                "min_std",
                "exploration_noise",
                "mode_samples",
                "mpc_step_size",
            ),
        ]
        if not 0 < self.init_std <= MAX_INIT_STD:
            problems.append(
                f"behavior.init_std is {self.init_std}; it must be above 0 and at most "
                f"{MAX_INIT_STD:g}."
            )
        if self.min_std >= self.init_std:
            problems.append(
                f"behavior.min_std ({self.min_std}) must be below behavior.init_std "
                f"({self.init_std}), where the standard deviation begins."
            )
        if self.mpc_iterations < 1:
            problems.append(
                f"behavior.mpc_iterations is {self.mpc_iterations}; it must be 1 or more: "
                "behavior.mpc=false turns planning off."
            )
        return problems


@dataclass(frozen=True)
class CVRLLearnerSettings(TrainingSettings):
    """CVRL's batches, learning rates and clips."""

    batch_size: int = 50  # B, windows in a batch
    sequence_length: int = 50  # T, agent steps in a window
    updates_per_agent_step: float = 0.2  # update ratio; times B*T it is the samples per insert
    crop_size: int = 64  # side of the square crop that the encoder sees, pixels
    random_crop: bool = False  # one random crop per window while training; centre crop otherwise
    model_rate: float = 6e-4  # Adam learning rate of the model
    actor_rate: float = 8e-5  # Adam learning rate of the actor
    value_rate: float = 8e-5  # Adam learning rate of the value network
    critic_rate: float = 8e-5  # Adam learning rate of the Qs
    alpha_rate: float = 3e-4  # Adam learning rate of the log temperature, if it is learned
    model_clip: float = 100.0  # gradient-norm clip of the model
    actor_clip: float = 100.0  # gradient-norm clip of the actor
    value_clip: float = 100.0  # gradient-norm clip of the value network
    critic_clip: float = 100.0  # gradient-norm clip of the Qs
    alpha_clip: float = 1.0  # gradient-norm clip of the log temperature, if it is learned
