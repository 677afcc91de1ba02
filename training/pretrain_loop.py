"""Contrastive pre-training of CLeBS (paper, sec. 3.2): batch -> loss -> step -> log -> save -> evaluate.

A batch is K frames of each of several videos. f_I looks at the frames, f_e at their beta; each beta has to find its
own frame among those of its video. f_I is thrown away afterwards; f_e is what the file `clebs-*.safetensors` holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataset.frames import FrameDataset
from dataset.loader import ClipLoader
from dnnlib import UserError, atomic_write, to_dict
from torch_utils import distributed
from training.checkpoints import (
    latest_train_state,
    load_state_strict,
    load_train_state,
    save_checkpoint,
    save_train_state,
    train_state_path,
)
from training.config import Config
from training.expression.clebs import ExpressionEncoder
from training.expression.contrastive import contrastive_loss
from training.expression.image_encoder import ImageEncoder
from training.expression.probes import probe_expression
from training.objectives import counter_seed
from training.preflight import check_disk, check_divisible, provenance_of
from training.records import ProgressLine, RunDirectory, git_revision
from training.steps import Meter, apply_step, count_parameters, stop_signal

WARMUP_STEPS = 100  # of the learning rate, linear
_TAU_MIN = 0.01  # a smaller temperature only amplifies the noise of the gradient
_STATE_COPIES = 3  # weights and two moments
_MAX_SHIFT = 0.06  # of the augmentation, image widths


class Pretrainer:
    """One pre-training run, or one process of it under torchrun."""

    def __init__(
        self, config: Config, dataset: FrameDataset, out: Path, device: torch.device
    ) -> None:
        """Build everything; writes nothing.

        Raises:
            UserError: something in the configuration, the data or the folder does not fit.
        """
        self.config, self.dataset, self.out, self.device = config, dataset, out, device
        self.rank, self.world = distributed.rank(), distributed.world_size()
        pre = config.pretrain
        check_pretraining(config, self.world)
        if distributed.is_main():
            RunDirectory.check(out, config)
        assert dataset.space is not None
        torch.manual_seed(pre.seed)
        self.expression = ExpressionEncoder(config.model.expression, dataset.space.dim)
        self.image = ImageEncoder(pre.image_channels, config.model.expression.dim)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(pre.temperature)))
        self.modules = nn.ModuleDict({"expression": self.expression, "image": self.image})
        self.modules.register_parameter("log_temperature", self.log_temperature)
        self.modules.to(device)
        distributed.broadcast_module(self.modules)
        check_disk(out, count_parameters(self.modules), pre.keep_last, _STATE_COPIES)
        self.optimiser = torch.optim.AdamW(
            self.modules.parameters(), lr=pre.lr, weight_decay=pre.weight_decay
        )
        self.step = 0
        next(iter(self._loader()))  # clips too short or beta missing are found now

    def run(self) -> None:
        """Train until total_steps, from the newest state of the run directory if there is one.

        Raises:
            UserError: the loss is not finite, or the disk is full; the last checkpoint stays.
        """
        self.resume()
        pre = self.config.pretrain
        run = self._open_run_directory() if distributed.is_main() else None
        progress = ProgressLine(pre.total_steps, self.step, "steps", quiet=run is None)
        meter = Meter()
        try:
            with stop_signal(enabled=self.world == 1) as stopping:
                for batch in self._batches():
                    meter.add(self.train_step(batch))
                    progress.update(self.step)
                    last, stop = self.step == pre.total_steps, stopping()
                    if run is not None and (last or self.step % pre.log_every == 0):
                        self._log(run, progress, meter.means())
                    if last or stop or self.step % pre.save_every == 0:
                        self.save(run)
                    if last and run is not None:
                        self._evaluate(run)
                    if stop:
                        raise UserError(
                            f"stopped at step {self.step}, which is saved; the same command goes on"
                        )
            if run is not None and not (self.out / "clebs-latest.safetensors").is_file():
                self._save_encoder(run)
        finally:
            progress.close()
            if run is not None:
                run.close()
        distributed.barrier()

    def train_step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """One step on this rank's videos; returns loss, accuracy and temperature, averaged over ranks.

        Raises:
            UserError: the loss is NaN or infinite.
        """
        pre = self.config.pretrain
        images = batch["image"]
        if pre.augment:
            share = pre.videos_per_batch // self.world
            first = self.rank * share
            images = augment(images, pre.seed, self.step, range(first, first + share))
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=pre.precision == "bf16"):
            found = self.image(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            wanted = self.expression(batch["beta"].flatten(0, 1)).unflatten(0, images.shape[:2])
            done = contrastive_loss(found, wanted, self.log_temperature, pre.denominator)
        done.loss.backward()
        distributed.average_gradients(self.modules.parameters())
        values = distributed.all_reduce_mean(
            {"contrastive": done.loss.detach(), "accuracy": done.accuracy}
        )
        if not math.isfinite(values["contrastive"]):
            raise UserError(
                f"the loss 'contrastive' is {values['contrastive']} at step {self.step}; "
                "lower pretrain.lr and start from the last checkpoint"
            )
        apply_step(self.optimiser, pre.lr * min(1.0, (self.step + 1) / WARMUP_STEPS))
        with torch.no_grad():
            self.log_temperature.clamp_(min=math.log(_TAU_MIN))
        self.step += 1
        return {**values, "temperature": float(self.log_temperature.detach().exp())}

    def _loader(self) -> ClipLoader:
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

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        total = self.config.pretrain.total_steps
        if self.step >= total:
            return
        for batch in self._loader():
            yield {name: x.to(self.device, non_blocking=True) for name, x in batch.items()}
            if self.step >= total:
                return

    def resume(self) -> None:
        """Take up the newest state of the run directory, if there is one."""
        path = latest_train_state(self.out)
        if path is None:
            return
        state, _ = load_train_state(path, self.device)
        load_state_strict(self.modules, state["modules"], str(path))
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])

    def _open_run_directory(self) -> RunDirectory:
        run = RunDirectory(self.out, self.config)
        run.record_start(self.facts())
        run.begin(self.step)
        return run

    def facts(self) -> dict[str, Any]:
        """What this start is made of, for record.json and --dry-run."""
        return {
            "step": self.step,
            "total_steps": self.config.pretrain.total_steps,
            "device": str(self.device),
            "processes": self.world,
            "parameters": {
                "f_e": count_parameters(self.expression),
                "f_I": count_parameters(self.image),
            },
            "data": {
                "path": str(self.dataset.path),
                "n_train_clips": len(self.dataset.clips_of("train")),
                "n_frames": len(self.dataset),
            },
        }

    def _log(self, run: RunDirectory, progress: ProgressLine, means: dict[str, float]) -> None:
        run.scalars(self.step, {**means, "steps_per_s": round(progress.rate(self.step), 3)})
        progress.report(self.step, "  ".join(f"{k} {v:.4f}" for k, v in means.items()))

    def save(self, run: RunDirectory | None) -> None:
        """Encoder and state of this step; the main process writes, the others wait."""
        if run is not None:
            keep = self.config.pretrain.keep_last
            self._save_encoder(run)
            state = {
                "step": self.step,
                "modules": self.modules.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            }
            save_train_state(
                train_state_path(self.out, self.step), state, provenance_of(self.dataset), keep
            )
            run.prune("clebs", keep)
        distributed.barrier()

    def _save_encoder(self, run: RunDirectory) -> None:
        path = self.out / f"clebs-{self.step:09d}.safetensors"
        metadata = {
            "kind": "clebs",
            "config": to_dict(self.config),
            **provenance_of(self.dataset),
            "git": git_revision(),
            "step": self.step,
            "temperature": float(self.log_temperature.detach().exp()),
            "data": self.dataset.spec.source,
        }
        save_checkpoint(path, self.expression.state_dict(), metadata)
        run.publish(path, "clebs-latest.safetensors")

    def _evaluate(self, run: RunDirectory) -> None:
        pre = self.config.pretrain
        split = max(("test", "val"), key=lambda name: len(self.dataset.clips_of(name)))
        if len(self.dataset.clips_of(split)) == 0:
            return
        found = {
            **retrieval(self.image, self.expression, self.dataset, split, pre.frames_per_video,
                        pre.image_size, self.device),
            **probe_expression(self.expression, self.dataset, split, self.device),
        }  # fmt: skip
        run.scalars(self.step, {f"eval/{k}": v for k, v in found.items()})
        with atomic_write(self.out / "evaluation.json", "w") as file:
            json.dump({"step": self.step, "split": split, **found}, file, indent=1)


def check_pretraining(config: Config, world: int) -> None:
    """What pretrain.py needs of its configuration.

    Raises:
        UserError: names the value and the cure.
    """
    pre = config.pretrain
    check_divisible("pretrain.videos_per_batch", pre.videos_per_batch, world)
    if config.model.expression.mode == "identity":
        raise UserError(
            "model.expression.mode is identity, which has nothing to train; use clebs or lebs"
        )
    if pre.frames_per_video < 2:
        raise UserError(
            "pretrain.frames_per_video must be at least 2: a frame needs others to be told from"
        )
    for name in ("log_every", "save_every", "keep_last", "total_steps", "image_size"):
        if getattr(pre, name) < 1:
            raise UserError(f"pretrain.{name} is {getattr(pre, name)} but must be at least 1")


def augment(images: Tensor, seed: int, step: int, videos: range) -> Tensor:
    """Colour and small shifts, the same for all frames of a video, so that they tell nothing about the frame.

    images [V, K, 3, S, S] in [-1, 1]; a function of (seed, step, video) alone.
    """
    generator = torch.Generator()
    rows = []
    for video in videos:
        generator.manual_seed(counter_seed(seed, step, video))
        rows.append(torch.rand(6, generator=generator))
    u = torch.stack(rows).to(images.device) * 2 - 1  # [V, 6] in [-1, 1)
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


@torch.no_grad()
def retrieval(
    image: nn.Module,
    expression: ExpressionEncoder,
    dataset: FrameDataset,
    split: str,
    frames: int,  # K; chance is 1 / K
    image_size: int,
    device: torch.device,
    max_videos: int = 64,
) -> dict[str, float]:
    """Share of beta that find their own frame among K of an unseen person's video."""
    n_frames = dataset.clips["n_frames"][dataset.clips_of(split)]
    videos = min(int((n_frames >= frames).sum()), max_videos)
    if videos == 0:
        return {}
    batch = next(iter(ClipLoader(dataset, split, 0, videos, frames, image_size)))
    accuracies = []
    for pictures, betas in zip(batch["image"].to(device), batch["beta"].to(device), strict=True):
        done = contrastive_loss(
            image(pictures)[None], expression(betas)[None], torch.zeros((), device=device)
        )
        accuracies.append(float(done.accuracy))
    return {
        "retrieval_accuracy": math.fsum(accuracies) / videos,
        "retrieval_chance": 1 / frames,
        "retrieval_videos": float(videos),
    }
