"""Contrastive pre-training of CLeBS (paper, sec. 3.2): what is particular to it, around the common loop.

A batch is K frames of each of several videos. f_I looks at the frames, f_e at their beta; each beta has to find its
own frame among those of its video. f_I is thrown away afterwards; f_e is what the file `clebs-*.safetensors` holds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataset.frames import FrameDataset
from dataset.loader import ClipLoader
from dnnlib import UserError
from running.checks import check_disk, check_divisible
from running.flops import FlopCount
from running.precision import autocast
from running.provenance import start_facts
from running.records import RunDirectory
from running.steps import adam, apply_step, count_parameters, gradient_norm
from torch_utils import distributed
from training.batches import Batch
from training.config import Config
from training.cost import StepCost
from training.expression.clebs import ExpressionEncoder
from training.expression.contrastive import contrastive_loss
from training.expression.image_encoder import ImageEncoder
from training.expression.probes import probe_expression, retrieval
from training.loop import Loop
from training.noise import uniform_rows
from training.preflight import data_facts

WARMUP_STEPS = 100  # of the learning rate, linear
_TAU_MIN = 0.01  # a smaller temperature only amplifies the noise of the gradient
_COPIES = 3  # in a state: weights and two moments
_MAX_SHIFT = 0.06  # of the augmentation, image widths


class Pretrainer(Loop):
    """A pre-training run of the expression encoder."""

    unit: ClassVar[str] = "steps"
    prefix: ClassVar[str] = "clebs"
    shown: ClassVar[tuple[str, ...]] = ("contrastive", "accuracy", "temperature")
    shown_loss: ClassVar[str] = "contrastive"

    def __init__(
        self,
        config: Config,
        dataset: FrameDataset,
        out: Path,
        device: torch.device,
        allowed: Collection[str] = (),  # see Loop
    ) -> None:
        """Build everything; writes nothing.

        Raises:
            UserError: something in the configuration, the data or the folder does not fit.
        """
        pre = config.pretrain
        check_divisible("pretrain.videos_per_batch", pre.videos_per_batch, distributed.world_size())
        if config.model.expression.mode == "identity":
            raise UserError(
                "model.expression.mode is identity, which has nothing to train; use clebs or lebs"
            )
        super().__init__(config, pre, dataset, out, device, allowed)
        assert dataset.space is not None
        self.total = self.total_steps = pre.total_steps
        self.expression = ExpressionEncoder(config.model.expression, dataset.space.dim)
        self.image = ImageEncoder(pre.image_channels, config.model.expression.dim)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(pre.temperature)))
        self.modules = nn.ModuleDict({"expression": self.expression, "image": self.image})
        self.modules.register_parameter("log_temperature", self.log_temperature)
        self.modules.to(device)
        distributed.broadcast_module(self.modules)
        weights = count_parameters(self.modules)
        check_disk(out, _COPIES * weights, count_parameters(self.expression), pre.keep_last)
        self.optimiser = adam(
            self.modules.parameters(), device, pre.lr, weight_decay=pre.weight_decay
        )
        self.objects |= {"modules": self.modules, "optimiser": self.optimiser}
        next(iter(self.loader()))  # clips too short or beta missing are found now

    @property
    def done(self) -> int:
        return self.step

    def loader(self) -> Iterable[Batch]:
        pre = self.config.pretrain
        return ClipLoader(
            self.dataset,
            "train",
            pre.seed,
            pre.videos_per_batch,
            pre.frames_per_video,
            pre.image_size,
            start_step=self.step,
            rank=self.rank,
            world=self.world,
            num_workers=self.config.data.num_workers,
        )

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One step on this rank's videos; returns loss, accuracy and temperature, averaged over ranks.

        A step with a loss or gradient that is not finite changes nothing but the counters.
        """
        pre = self.config.pretrain
        images = batch["image"]
        if pre.augment:
            share = pre.videos_per_batch // self.world
            first = self.rank * share
            images = augment(images, pre.seed, self.step, range(first, first + share))
        self.optimiser.zero_grad(set_to_none=True)
        with autocast(self.device, pre.precision):
            found = self.image(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            wanted = self.expression(batch["beta"].flatten(0, 1)).unflatten(0, images.shape[:2])
            done = contrastive_loss(found, wanted, self.log_temperature, pre.denominator)
        self.exchange.last_pass(self.modules)
        (done.loss * self.scale.value).backward()
        self.average_gradients(self.modules)
        losses = {
            "contrastive": done.loss.detach(),
            "accuracy": done.accuracy,
            "grad_norm": gradient_norm(self.modules),
        }
        values = self.reduce(losses, batch)
        if self.leaves_out(values, batch):
            self.step += 1
            return {**values, "temperature": self._temperature()}
        apply_step(self.optimiser, pre.lr * min(1.0, (self.step + 1) / WARMUP_STEPS))
        with torch.no_grad():
            self.log_temperature.clamp_(min=math.log(_TAU_MIN))
        self.step += 1
        return {**values, "temperature": self._temperature()}

    def _temperature(self) -> float:
        return float(self.log_temperature.detach().exp())

    def network(self) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        return self.expression.state_dict(), {"kind": "clebs", "temperature": self._temperature()}

    def facts(self) -> dict[str, Any]:
        modules = {"f_e": self.expression, "f_I": self.image}
        return {
            **start_facts(self.step, self.total_steps, self.device, modules),
            "data": data_facts(self.dataset),
        }

    def count(self) -> StepCost:
        pre = self.config.pretrain
        n = pre.frames_per_video
        images = torch.zeros(n, 3, pre.image_size, pre.image_size, device=self.device)
        beta = torch.zeros(n, self.expression.space_dim, device=self.device)
        with FlopCount() as count:
            (self.image(images).sum() + self.expression(beta).sum()).backward()
        self.modules.zero_grad(set_to_none=True)
        return StepCost(count.total)

    def flops(self, cost: StepCost) -> float:
        pre = self.config.pretrain
        return cost.of_step(pre.videos_per_batch / self.world, False, 1)

    def evaluate(self, run: RunDirectory | None) -> None:
        pre = self.config.pretrain
        split = max(("test", "val"), key=lambda name: len(self.dataset.clips_of(name)))
        if run is None or not self.is_due(0) or len(self.dataset.clips_of(split)) == 0:
            return
        found = {
            **retrieval(self.image, self.expression, self.dataset, split, pre.frames_per_video,
                        pre.image_size, self.device),
            **probe_expression(self.expression, self.dataset, split, self.device),
        }  # fmt: skip
        run.scalars(self.step, {f"eval/{k}": v for k, v in found.items()})
        run.evaluation({"step": self.step, "split": split, **found})


def augment(images: Tensor, seed: int, step: int, videos: range) -> Tensor:
    """Colour and small shifts, the same for all frames of a video, so that they tell nothing about the frame.

    images [V, K, 3, S, S] in [-1, 1]; a function of (seed, step, video) alone.
    """
    u = uniform_rows(seed, step, videos, 6).to(images.device) * 2 - 1  # [V, 6] in [-1, 1)
    gain = 1 + 0.25 * u[:, :3]
    offset = 0.2 * u[:, 3:4]
    out = images * gain[:, None, :, None, None] + offset[:, None, :, None, None]
    theta = torch.zeros(len(u), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    theta[:, :, 2] = u[:, 4:] * 2 * _MAX_SHIFT  # affine_grid's coordinates span 2
    flat = out.flatten(1, 2)  # frames of a video as channels of one image
    grid = functional.affine_grid(theta, list(flat.shape), align_corners=False)
    moved = functional.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return moved.view_as(images).clamp(-1, 1)
