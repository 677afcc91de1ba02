"""Training the generator: what is particular to it, around the common loop."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar
from typing import Protocol as Interface

import torch
from torch import Tensor, nn

from conventions.spaces import ExpressionSpace
from dataset.frames import FrameDataset, fingerprint
from dataset.loader import PairLoader
from running.anchor import Anchor
from running.checks import check_disk
from running.ema import WeightAverage
from running.heartbeat import WAITING
from running.precision import autocast
from running.provenance import start_facts
from running.records import RunDirectory
from running.steps import (
    adam,
    apply_step,
    clip_gradients,
    count_parameters,
    gradient_norm,
    micro_batches,
)
from torch_utils import distributed
from torch_utils.ops import library
from training import objectives
from training.batches import Batch
from training.config import Config
from training.cost import StepCost, count_step
from training.discriminator.dual import DualDiscriminator
from training.evaluation import evaluate, held_out_split
from training.generator.model import Export3D, RenderOutput
from training.grids import Grid
from training.loop import Loop
from training.losses.adversarial import r1_due
from training.noise import draw_noise
from training.preflight import (
    check_training,
    data_facts,
    mirror_of_model,
    stand_ins,
    unseen_people,
)
from training.schedule import adversarial_factor, learning_rate_factor
from training.start import load_start_weights, only_these_learn, training_betas

# of the weights in a state: themselves and two moments of Adam, of the generator the average too
_COPIES, _COPIES_CRITIC = 4, 3


class Watch(Interface):
    """Scores the averaged network while it trains (metrics/watch.py); called in every process."""

    improved: bool  # whether the last scores are the best so far

    def __call__(self, model: Export3D, space: ExpressionSpace, n_images: int) -> dict[str, float]:
        """Scores by name; NaN where nothing could be measured."""
        ...


class Trainer(Loop):
    """A training run of the generator."""

    unit: ClassVar[str] = "images"
    prefix: ClassVar[str] = "network"
    shown: ClassVar[tuple[str, ...]] = objectives.GENERATOR_TERMS
    shown_loss: ClassVar[str] = "total"

    def __init__(
        self,
        config: Config,
        dataset: FrameDataset,  # fit for the configuration, see preflight.open_training_data
        out: Path,  # run directory
        device: torch.device,
        watch: Watch | None = None,  # asked at every evaluation
        allowed: Collection[str] = (),  # see Loop
    ) -> None:
        """Build everything; writes nothing.

        Raises:
            UserError: something in the configuration, the data or the folder does not fit.
        """
        check_training(config, dataset, distributed.world_size())
        assert dataset.space is not None
        self.mirror = mirror_of_model(config.data, dataset.space)
        seen = fingerprint(dataset) + (self.mirror.hash if self.mirror else "")
        super().__init__(config, config.train, dataset, out, device, allowed, seen)
        train = config.train
        self.total = train.total_images
        self.total_steps = math.ceil(train.total_images / train.batch_size)  # may go past total
        self.loader()  # clips too short, or what cannot be mirrored, are found now
        self.watch = watch
        betas = training_betas(dataset)[0] if config.loss.expression > 0 else None
        self.networks = objectives.load_loss_networks(config.loss, device, betas)
        for sentence in (*stand_ins(config.loss), *unseen_people(dataset)):
            distributed.print0(sentence, file=sys.stderr)
        self.model = Export3D(config.model, dataset.space.dim)
        self.model.gradient_checkpointing = train.gradient_checkpointing
        self.discriminator = (
            DualDiscriminator(config.model) if config.loss.adversarial > 0 else None
        )
        load_start_weights(self.model, config, dataset)
        only_these_learn(self.model, train.learn)
        self._check_disk()
        self.model.to(device)
        distributed.broadcast_module(self.model)
        self.anchor = Anchor(self.model, train.anchor)
        self.average = WeightAverage(self.model, train.ema_images)
        self.optimiser = self._adam(self.model, train.lr)
        self.objects |= {"model": self.model, "average": self.average, "optimiser": self.optimiser}
        self.optimiser_d: torch.optim.Optimizer | None = None
        if self.discriminator is not None:
            self.discriminator.to(device)
            distributed.broadcast_module(self.discriminator)
            self.optimiser_d = self._adam(self.discriminator, train.lr_discriminator)
            self.objects |= {"discriminator": self.discriminator, "optimiser_d": self.optimiser_d}
        self._grid: Grid | None = None
        self._generate = objectives.generator_pass
        if train.compile:
            library.use_library(device.type)  # type: ignore[arg-type]  # now: a build ends the graph
            self._generate = torch.compile(objectives.generator_pass, dynamic=False)

    def _check_disk(self) -> None:
        network = count_parameters(self.model)
        critic = 0 if self.discriminator is None else count_parameters(self.discriminator)
        state = _COPIES * network + _COPIES_CRITIC * critic
        check_disk(self.out, state, network, self.config.train.keep_last)

    def _adam(self, module: nn.Module, lr: float) -> torch.optim.Optimizer:
        train = self.config.train
        return adam(
            module.parameters(), self.device, lr, betas=train.betas, weight_decay=train.weight_decay
        )

    @property
    def done(self) -> int:
        return self.step * self.config.train.batch_size

    def counters(self) -> dict[str, Any]:
        return {"n_images": self.done}

    def loader(self) -> Iterable[Batch]:
        train, data = self.config.train, self.config.data
        return PairLoader(
            self.dataset,
            "train",
            train.seed,
            train.batch_size,
            start_step=self.step,
            rank=self.rank,
            world=self.world,
            num_workers=data.num_workers,
            mirror=data.mirror,
            channels=objectives.channels_used(self.config.loss),
            beta_mirror=self.mirror,
        )

    # ---- a step --------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One step on this rank's share of the global batch; returns the losses, averaged over ranks.

        A step with a loss, a gradient or a mean tri-plane that is not finite changes nothing but the counters.
        """
        train = self.config.train
        factor = learning_rate_factor(train, self.done)
        adversarial = adversarial_factor(train, self.done)
        critic = self.discriminator if adversarial > 0 else None
        losses, mean_residual, outputs = self._generator_gradients(batch, critic, adversarial)
        self.average_gradients(self.model)
        losses["grad_norm"] = clip_gradients(self.model, train.grad_clip)
        if critic is not None:
            losses |= self._critic_gradients(critic, batch, outputs)
            self.average_gradients(critic)
            losses["grad_norm_d"] = gradient_norm(critic)
        with self.heart.phase(WAITING):
            mean_residual = distributed.all_reduce_mean(mean_residual)
        values = self.reduce({**losses, "plane_residual": mean_residual.abs().mean()}, batch)
        shown = {**values, "lr": train.lr * factor, "adversarial_factor": adversarial}
        if self.leaves_out(values, batch):
            self.step += 1
            return shown
        apply_step(self.optimiser, train.lr * factor)
        self.anchor.pull(train.lr * factor)
        if critic is not None and self.optimiser_d is not None:
            apply_step(self.optimiser_d, train.lr_discriminator * factor)
        if not train.learn or "plane_head" in train.learn:  # T_EMA goes with the planes
            self.model.update_plane_mean(mean_residual)
        self.step += 1
        self.average.update(self.model, self.done, train.batch_size)
        return shown

    def _generator_gradients(
        self, batch: Batch, critic: nn.Module | None, adversarial: float
    ) -> tuple[dict[str, Tensor], Tensor, list[RenderOutput]]:
        """Backward passes of the generator's loss; (losses, mean of G(S, beta'), what was rendered)."""
        train, loss = self.config.train, self.config.loss
        share = train.batch_size // self.world
        samples = range(self.rank * share, (self.rank + 1) * share)
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        residuals, outputs = [], []
        if critic is not None:
            critic.requires_grad_(False)
        for start, part in micro_batches(batch, share, train.accumulate):
            here = samples[start : start + share // train.accumulate]
            noise = draw_noise(train.seed, self.step, here, self.config.model, loss, self.device)
            crossed = objectives.n_crossed(loss, len(part["beta"]))
            with autocast(self.device, train.precision):
                done = self._generate(self.model, part, noise, crossed)
                losses = objectives.generator_losses(
                    self.model, done, part, noise, loss, self.networks, critic
                )
            total = objectives.weighted_sum(losses, loss, adversarial)
            if start + len(here) == share:
                self.exchange.last_pass(self.model)
            (total * self.scale.value / train.accumulate).backward()
            for name, value in {**losses, "total": total}.items():
                sums[name] = sums.get(name, 0) + value.detach() / train.accumulate
            residuals.append(done.mean_residual)
            if critic is not None:
                outputs.append(
                    done.out._replace(image=done.out.image.detach(), raw=done.out.raw.detach())
                )
        if critic is not None:
            critic.requires_grad_(True)
        return sums, torch.stack(residuals).mean(dim=0), outputs

    def _critic_gradients(
        self, critic: nn.Module, batch: Batch, outputs: list[RenderOutput]
    ) -> dict[str, Tensor]:
        train, loss = self.config.train, self.config.loss
        assert self.optimiser_d is not None
        self.optimiser_d.zero_grad(set_to_none=True)
        due = r1_due(self.step, loss.r1_interval)
        sums: dict[str, Tensor] = {}
        parts = micro_batches(batch, len(batch["driving"]), train.accumulate)
        for number, (out, (_, part)) in enumerate(zip(outputs, parts, strict=True), 1):
            with autocast(self.device, train.precision):
                losses = objectives.critic_losses(critic, out, part, loss, due)
            total = torch.stack(list(losses.values())).sum()
            if number == train.accumulate:
                self.exchange.last_pass(critic)
            (total * self.scale.value / train.accumulate).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() / train.accumulate
        return sums

    # ---- what is written -----------------------------------------------------------------------------------------

    def network(self) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        about = {
            "kind": "model",
            "weights": {"average_half_life_images": self.config.train.ema_images},
            "loss_networks": self.networks.record(),
        }
        return self.average.state_dict(), about

    def facts(self) -> dict[str, Any]:
        modules: dict[str, nn.Module] = {"generator": self.model}
        mirror = self.mirror and {"model": self.mirror.hash, "error": self.mirror.error}
        if self.discriminator is not None:
            modules["discriminator"] = self.discriminator
        return {
            **start_facts(self.step, self.total_steps, self.device, modules),
            "data": data_facts(self.dataset),
            **({"mirror": mirror} if mirror else {}),
            "loss_networks": self.networks.record(),
        }

    def count(self) -> StepCost:
        return count_step(self.model, self.discriminator, self.networks, self.config, self.device)

    def flops(self, cost: StepCost) -> float:
        train = self.config.train
        adversarial = adversarial_factor(train, self.done) > 0
        return cost.of_step(
            train.batch_size / self.world, adversarial, self.config.loss.r1_interval
        )

    def draw(self, run: RunDirectory) -> None:
        if self.is_due(self.config.train.image_every):
            self._grid = self._grid or Grid(self.dataset, self.device)
            run.image(self.step, "heads", self._grid.draw(self.average.module))

    def evaluate(self, run: RunDirectory | None) -> None:
        if not self.is_due(self.config.train.eval_every):
            return
        split, pairs = held_out_split(self.dataset), self.config.train.eval_pairs
        if run is not None and split is not None and pairs:
            found = evaluate(self.average.module, self.dataset, split, pairs, device=self.device)
            numbers = {f"eval/{k}": v for k, v in found.items() if isinstance(v, float)}
            run.scalars(self.step, {**self.counters(), **numbers})
            run.evaluation({**self.counters(), **found})
            if self.watch is None:
                self._keep_best(run, found["psnr"])
        self.exchange.wait_for_main(f"evaluated {self.step}")
        if self.watch is not None and self.dataset.space is not None:
            scores = self.watch(self.average.module, self.dataset.space, self.done)
            if run is not None:
                known = {f"protocol/{k}": v for k, v in scores.items() if math.isfinite(v)}
                run.scalars(self.step, {**self.counters(), **known})
                if self.watch.improved:
                    self.save_network(run, "network-best.safetensors")
            distributed.barrier()

    def _keep_best(self, run: RunDirectory, psnr: float) -> None:
        if self.history.best is None or psnr > self.history.best:
            self.history.best = psnr
            self.save_network(run, "network-best.safetensors")
