"""CoRe's update as one would write it down from the paper: what ours is compared with.

Eager, float32, contiguous memory, one operation after the other: Algorithm 1 with its two forward
passes, the RSSM step by step, two critics one after the other, a Python loop for crops, torch's
plain Adam. It shares no code with `learners` but the names of its settings; only the order in which
noise is drawn is ours, so that both can be given the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learners.core import CoReAgent
from learners.settings import BehaviorSettings, LearnerSettings, ObjectiveSettings

Parameters = dict[str, Tensor]
LINEAR = "model.encoder.linear.weight"
CRITICS = ("behavior.critics", "behavior.target_critics")


class ReferenceUpdate:
    """Algorithm 1 of the paper with the numbers of the released code, from an agent's weights.

    Args:
        agent: Gives the first weights and is left alone.
        learner: Rates, clips, and the side of the crop.
        objective: Loss settings; "prior", "all" and "mean" are the only forms written out.
        behavior: Discount, target rate, bounds.
        seed: Of crops and noise, drawn in the order of `learners.core_update.CoReUpdate`.
    """

    def __init__(
        self,
        agent: CoReAgent,
        learner: LearnerSettings,
        objective: ObjectiveSettings,
        behavior: BehaviorSettings,
        seed: int = 0,
    ) -> None:
        self.learner, self.objective, self.behavior = learner, objective, behavior
        self.generator = torch.Generator().manual_seed(seed)
        self.target_entropy = -float(agent.action_dims)
        convolutions = [m for m in agent.model.encoder.modules() if isinstance(m, nn.Conv2d)]
        self.strides = [layer.stride for layer in convolutions]
        self.paddings = [layer.padding for layer in convolutions]
        self.p = _plain(agent.state_dict())
        self.recurrent_dims = self.p["model.rssm.cell.gates.weight"].shape[0] // 3
        self.latent_dims = self.p["model.rssm.prior_head.norm.weight"].shape[0] // 2

        def named(*beginnings: str) -> list[Tensor]:
            return [value for name, value in self.p.items() if name.startswith(beginnings)]

        for tensor in named("model.", "behavior.critics.", "behavior.actor.", "behavior.log_alpha"):
            tensor.requires_grad_(True)
        temperature = self.p["model.inverse_temperature"]
        weights = [value for value in named("model.") if value is not temperature]
        self.model, self.critics = [*weights, temperature], named("behavior.critics.")
        self.targets, self.actor = named("behavior.target_critics."), named("behavior.actor.")
        self.log_alpha = self.p["behavior.log_alpha"]
        self.model_adam = torch.optim.Adam(
            [
                {"params": weights, "lr": learner.model_rate},
                {"params": [temperature], "lr": learner.inverse_temperature_rate},
            ]
        )
        self.critic_adam = torch.optim.Adam(
            [
                {"params": self.critics, "lr": learner.critic_rate},
                {"params": weights, "lr": learner.model_rate},
            ]
        )
        self.actor_adam = torch.optim.Adam(self.actor, lr=learner.actor_rate)
        self.alpha_adam = torch.optim.Adam(
            [self.log_alpha], lr=learner.alpha_rate, betas=(learner.alpha_beta1, 0.999)
        )

    def step(self, batch: Mapping[str, np.ndarray]) -> None:
        """One update: model, critic, actor, temperature, targets."""
        learner, behavior = self.learner, self.behavior
        pixels = self._crops(torch.from_numpy(batch["observation"]))  # (T, B, 3, S, S)
        actions = torch.from_numpy(batch["action"])  # (T, B, A)
        rewards = torch.from_numpy(batch["reward"]) / behavior.reward_divisor  # (T, B)
        discounts = torch.from_numpy(batch["discount"])  # (T, B)

        # Model step on J_M (Eq. 1, 2).
        loss = self._model_loss(*self._observe(pixels, actions), actions, rewards)
        self._zero()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model, learner.model_clip)
        self.model_adam.step()

        # A fresh forward with the new weights; critic step on J_Q (Eq. 3, 4), model included.
        _, recurrent, _, mean, _ = self._observe(pixels, actions)
        states = torch.cat([mean, recurrent], -1)  # (T, B, Ds + Dh)
        with torch.no_grad():
            following = states[1:].detach()
            next_actions, log_prob = self._act(following)
            value = torch.min(*self._values("behavior.target_critics", following, next_actions))
            value = value - self.log_alpha.exp() * log_prob
            target = rewards[:-1] + behavior.discount * discounts[:-1] * value
        first, second = self._values("behavior.critics", states[:-1], actions[:-1])
        loss = F.mse_loss(first, target) + F.mse_loss(second, target)
        self._zero()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.critics, learner.critic_clip)
        self.critic_adam.step()

        # Actor step (Eq. 5).
        latent = states[:-1].detach()
        new_actions, log_prob = self._act(latent)
        value = torch.min(*self._values("behavior.critics", latent, new_actions))
        loss = (self.log_alpha.exp().detach() * log_prob - value).mean()
        self._zero()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.actor, learner.actor_clip)
        self.actor_adam.step()

        # Temperature.
        loss = -self.log_alpha.exp() * (self.target_entropy + log_prob.detach().mean())
        self._zero()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([self.log_alpha], learner.alpha_clip)
        self.alpha_adam.step()
        with torch.no_grad():
            self.log_alpha.clamp_(max=behavior.log_alpha_max)
            for target_weight, weight in zip(self.targets, self.critics, strict=True):
                target_weight.mul_(1 - behavior.target_rate).add_(behavior.target_rate * weight)

    def distance(self, agent: CoReAgent) -> dict[str, float]:
        """The largest difference of each of the agent's parameters to these."""
        theirs = _plain(agent.state_dict())
        return {name: (self.p[name] - theirs[name]).abs().max().item() for name in self.p}

    # Model --------------------------------------------------------------------------------------

    def _crops(self, frames: Tensor) -> Tensor:
        size = self.learner.crop_size
        batch, height, width = frames.shape[1:4]
        draws = torch.rand(2, batch, generator=self.generator)
        windows = []
        for b in range(batch):
            top = int(draws[0, b] * (height - size + 1))
            left = int(draws[1, b] * (width - size + 1))
            windows.append(frames[:, b, top : top + size, left : left + size])
        crops = torch.stack(windows, 1).permute(0, 1, 4, 2, 3)
        return crops.to(torch.float32).contiguous() / 255.0

    def _observe(self, pixels: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        """Features x, recurrent h, latent s, and mean and log std of q, each (T, B, ...)."""
        horizon, batch = pixels.shape[:2]
        maps = pixels.flatten(0, 1)
        for layer, (stride, padding) in enumerate(zip(self.strides, self.paddings, strict=True)):
            weight, bias = self._weights(f"model.encoder.convolutions.{2 * layer}")
            maps = F.relu(F.conv2d(maps, weight, bias, stride, padding))
        features = F.linear(maps.flatten(1), *self._weights("model.encoder.linear"))
        features = _norm(features).view(horizon, batch, -1)

        noise = torch.randn(horizon, batch, self.latent_dims, generator=self.generator)
        recurrent = torch.zeros(batch, self.recurrent_dims)
        steps: list[list[Tensor]] = []
        for t in range(horizon):
            if t > 0:
                inputs = torch.cat([steps[-1][1], actions[t - 1]], -1)
                inputs = self._mlp("model.rssm.transition_input", inputs, F.elu, last=True)
                recurrent = self._gru(inputs, recurrent)
            embedding = _norm(self._mlp("model.rssm.embedding.0", features[t], F.elu))
            mean, log_std = self._gaussian(
                "model.rssm.posterior_head", torch.cat([embedding, recurrent], -1)
            )
            steps.append([recurrent, mean + log_std.exp() * noise[t], mean, log_std])
        recurrents, latents, means, log_stds = (
            torch.stack(part) for part in zip(*steps, strict=True)
        )
        return features, recurrents, latents, means, log_stds

    def _model_loss(
        self,
        features: Tensor,
        recurrent: Tensor,
        latent: Tensor,
        mean: Tensor,
        log_std: Tensor,
        actions: Tensor,
        rewards: Tensor,
    ) -> Tensor:
        scales = self.objective
        prior_mean, prior_log_std = self._gaussian("model.rssm.prior_head", recurrent[1:])
        noise = torch.randn(prior_mean.shape, generator=self.generator)
        decoded = torch.cat([prior_mean + prior_log_std.exp() * noise, recurrent[1:]], -1)
        predicted = _norm(self._mlp("model.decoder", decoded, F.elu)).flatten(0, 1)
        scores = features[1:].flatten(0, 1) @ predicted.t()
        scores = scores * F.softplus(self.p["model.inverse_temperature"])
        diagonal = torch.arange(len(scores))
        contrastive = F.cross_entropy(scores, diagonal) + F.cross_entropy(scores.t(), diagonal)

        prior, posterior = (prior_mean, prior_log_std), (mean[1:], log_std[1:])
        to_prior = _kl(tuple(x.detach() for x in posterior), prior).clamp(min=scales.free_nats)
        to_posterior = _kl(posterior, tuple(x.detach() for x in prior))
        to_posterior = to_posterior.clamp(min=scales.free_nats)
        balance = scales.kl_balance
        divergence = (1 - balance) * to_prior.mean() + balance * to_posterior.mean()

        states = torch.cat([latent, recurrent], -1)
        reward = self._mlp("model.reward", states[1:], F.elu).squeeze(-1)
        pairs = torch.cat([states[:-1], states[1:]], -1)
        action = torch.tanh(self._mlp("model.inverse", pairs, F.elu))
        return (
            scales.contrastive_scale * 0.5 * contrastive
            + scales.kl_scale * divergence
            + scales.reward_scale * F.smooth_l1_loss(reward, rewards[:-1])
            + scales.inverse_scale * 0.5 * (action - actions[:-1]).square().sum(-1).mean()
        )

    def _gru(self, inputs: Tensor, recurrent: Tensor) -> Tensor:
        gates = F.linear(torch.cat([inputs, recurrent], -1), self.p["model.rssm.cell.gates.weight"])
        gates = _norm(gates) * self.p["model.rssm.cell.norm.weight"]
        reset, candidate, update = (gates + self.p["model.rssm.cell.norm.bias"]).chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return update * candidate + (1 - update) * recurrent

    def _gaussian(self, head: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
        values = _norm(self._mlp(f"{head}.network", inputs, F.elu))
        values = values * self.p[f"{head}.norm.weight"] + self.p[f"{head}.norm.bias"]
        mean, log_std = values.chunk(2, -1)
        return mean, log_std.clamp(-10.0, 10.0)

    # Behaviour ----------------------------------------------------------------------------------

    def _act(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """A sampled action and its log-probability."""
        settings = self.behavior
        mean, raw = self._mlp("behavior.actor.network", states, F.relu).chunk(2, -1)
        mean = settings.mean_bound * torch.tanh(mean / settings.mean_bound)
        low, high = settings.log_std_min, settings.log_std_max
        std = (low + (high - low) * torch.sigmoid(raw)).exp()
        noise = torch.randn(mean.shape, generator=self.generator)
        bound = math.atanh(1 - 1e-7)
        unsquashed = (mean + std * noise).clamp(-bound, bound)
        log_prob = torch.distributions.Normal(mean, std).log_prob(unsquashed)
        log_det = 2 * (math.log(2) - unsquashed - F.softplus(-2 * unsquashed))
        return torch.tanh(unsquashed), (log_prob - log_det).sum(-1)

    def _values(self, critics: str, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        inputs = torch.cat([states, actions], -1)
        first, second = (self._mlp(f"{critics}.{q}", inputs, F.relu) for q in (0, 1))
        return first.squeeze(-1), second.squeeze(-1)

    # Parts --------------------------------------------------------------------------------------

    def _weights(self, layer: str) -> tuple[Tensor, Tensor]:
        return self.p[f"{layer}.weight"], self.p[f"{layer}.bias"]

    def _mlp(self, name: str, values: Tensor, activation: object, last: bool = False) -> Tensor:
        assert callable(activation)
        layers = sum(1 for key in self.p if key.startswith(f"{name}.") and key.endswith(".weight"))
        for layer in range(layers):
            values = F.linear(values, *self._weights(f"{name}.{2 * layer}"))
            if last or layer < layers - 1:
                values = activation(values)
        return values

    def _zero(self) -> None:
        for tensor in self.p.values():
            tensor.grad = None


def _plain(state: Mapping[str, Tensor]) -> Parameters:
    """An agent's weights as a plain implementation keeps them: each critic by itself, inputs of the
    encoder's linear layer channel after channel.
    """
    plain: Parameters = {}
    for name, value in state.items():
        value = value.detach().clone(memory_format=torch.contiguous_format)
        owner = next((critics for critics in CRITICS if name.startswith(critics + ".")), None)
        if owner is not None:
            kind, layer = name.removeprefix(owner + ".").split(".")
            for q in (0, 1):
                each = value[q].t() if kind == "weights" else value[q, 0]
                end = "weight" if kind == "weights" else "bias"
                plain[f"{owner}.{q}.{2 * int(layer)}.{end}"] = each.clone(
                    memory_format=torch.contiguous_format
                )
        elif name == LINEAR:
            last = [n for n in state if n.startswith("model.encoder.convolutions.")][-1]
            channels = state[last].shape[0]
            pixels = value.shape[1] // channels
            plain[name] = value.view(-1, pixels, channels).transpose(1, 2).flatten(1).contiguous()
        else:
            plain[name] = value
    return plain


def _norm(values: Tensor) -> Tensor:
    return F.layer_norm(values, values.shape[-1:])


def _kl(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> Tensor:
    (mean, log_std), (other, other_log_std) = left, right
    ratio = (2 * (log_std - other_log_std)).exp()
    gap = ((mean - other) / other_log_std.exp()).square()
    return 0.5 * (ratio + gap - 1 - 2 * (log_std - other_log_std)).sum(-1)
