"""The training loop: batch -> losses -> step -> ema -> log -> save -> evaluate.

Everything random is a function of (seed, step), so that the training state is weights, averages, optimisers and
the number of the step; a run that was killed goes on from its newest state and ends in the same weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dataset.frames import FrameDataset
from dataset.loader import PairLoader
from dnnlib import UserError, atomic_write, to_dict
from torch_utils import distributed
from torch_utils.ops import library
from training import objectives
from training.checkpoints import (
    latest_train_state,
    load_state_strict,
    load_train_state,
    save_checkpoint,
    save_train_state,
    train_state_path,
)
from training.config import Config
from training.discriminator.dual import DualDiscriminator
from training.ema import WeightAverage
from training.evaluation import evaluate
from training.generator.model import Export3D, RenderOutput
from training.grids import Grid
from training.losses.adversarial import r1_due
from training.preflight import (
    check_disk,
    check_provenance,
    check_training,
    provenance_of,
)
from training.records import ProgressLine, RunDirectory, git_revision
from training.schedule import adversarial_factor, learning_rate_factor
from training.start import load_start_weights
from training.steps import (
    Meter,
    apply_step,
    clip_gradients,
    count_parameters,
    micro_batches,
    stop_signal,
)

if TYPE_CHECKING:
    from metrics.watch import ProtocolWatch

_STATE_COPIES = 4  # of the weights in a state: themselves, their average, two moments of Adam


class Trainer:
    """One run, or one process of it under torchrun."""

    def __init__(
        self,
        config: Config,
        dataset: FrameDataset,  # fit for the configuration, see preflight.open_training_data
        out: Path,  # run directory
        device: torch.device,
    ) -> None:
        """Build everything; writes nothing.

        Raises:
            UserError: something in the configuration, the data or the folder does not fit.
        """
        self.config, self.dataset, self.out, self.device = config, dataset, out, device
        self.rank, self.world = distributed.rank(), distributed.world_size()
        check_training(config, dataset, self.world)
        if distributed.is_main():
            RunDirectory.check(out, config)
        assert dataset.space is not None
        train = config.train
        torch.manual_seed(train.seed)
        self.networks = objectives.load_loss_networks(config.loss, device)
        self.model = Export3D(config.model, dataset.space.dim)
        self.model.gradient_checkpointing = train.gradient_checkpointing
        self.discriminator = (
            DualDiscriminator(config.model) if config.loss.adversarial > 0 else None
        )
        load_start_weights(self.model, config, dataset)
        check_disk(out, count_parameters(self.model), train.keep_last, _STATE_COPIES)
        self.model.to(device)
        distributed.broadcast_module(self.model)
        self.average = WeightAverage(self.model, train.ema_images)
        self.optimiser = self._adam(self.model, train.lr)
        self.optimiser_d: torch.optim.Optimizer | None = None
        if self.discriminator is not None:
            self.discriminator.to(device)
            distributed.broadcast_module(self.discriminator)
            self.optimiser_d = self._adam(self.discriminator, train.lr_discriminator)
        self.step = 0
        self.watch: ProtocolWatch | None = None
        if train.protocol:
            from metrics.protocols import load_protocol
            from metrics.watch import ProtocolWatch

            protocol = load_protocol(Path(train.protocol))
            self.watch = ProtocolWatch(protocol, Path(config.data.path), out / "protocol")
        self._generate = objectives.generator_pass
        if train.compile:
            library.use_library(device.type)  # type: ignore[arg-type]  # now: a build ends the graph
            self._generate = torch.compile(objectives.generator_pass, dynamic=False)

    @property
    def n_images(self) -> int:
        """Images seen, over all ranks."""
        return self.step * self.config.train.batch_size

    @property
    def total_steps(self) -> int:
        """Steps of the whole run; the last batch may go past total_images."""
        return math.ceil(self.config.train.total_images / self.config.train.batch_size)

    # ---- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until total_images, from the newest state of the run directory if there is one.

        Raises:
            UserError: a loss is not finite, or the disk is full; the last checkpoint stays.
        """
        self.resume()
        train = self.config.train
        run = self._open_run_directory() if distributed.is_main() else None
        progress = ProgressLine(train.total_images, self.n_images, quiet=run is None)
        meter = Meter()
        grid = Grid(self.dataset, self.device) if run is not None else None
        try:
            with stop_signal(enabled=self.world == 1) as stopping:
                for batch in self._batches():
                    meter.add(self.train_step(batch))
                    progress.update(self.n_images)
                    last = self.step == self.total_steps
                    if run is not None and (last or self.step % train.log_every == 0):
                        self._log(run, progress, meter.means())
                    if run is not None and grid and (last or self.step % train.image_every == 0):
                        run.image(self.step, "heads", grid.draw(self.average.module))
                    stop = stopping()
                    if last or stop or self.step % train.save_every == 0:
                        self.save(run)
                    if last or (train.eval_every and self.step % train.eval_every == 0):
                        self._evaluate(run)
                    if stop:
                        raise UserError(
                            f"stopped at step {self.step}, which is saved; the same command goes on"
                        )
            if run is not None and not (self.out / "network-latest.safetensors").is_file():
                self._save_network(run)
        finally:
            progress.close()
            if run is not None:
                run.close()
        distributed.barrier()

    def train_step(self, batch: objectives.Batch) -> dict[str, float]:
        """One step on this rank's share of the global batch; returns the losses, averaged over ranks.

        Raises:
            UserError: one of them is NaN or infinite; the weights are those before the step.
        """
        train = self.config.train
        factor = learning_rate_factor(train, self.n_images)
        adversarial = adversarial_factor(train, self.n_images)
        critic = self.discriminator if adversarial > 0 else None
        losses, mean_residual, outputs = self._generator_gradients(batch, critic, adversarial)
        distributed.average_gradients(self.model.parameters())
        norm = clip_gradients(self.model, train.grad_clip)
        losses["grad_norm"] = norm
        if critic is not None:
            losses |= self._critic_gradients(critic, batch, outputs)
            distributed.average_gradients(critic.parameters())
        values = distributed.all_reduce_mean(losses)
        self._check_finite(values)
        apply_step(self.optimiser, train.lr * factor)
        if critic is not None and self.optimiser_d is not None:
            apply_step(self.optimiser_d, train.lr_discriminator * factor)
        self.model.update_plane_mean(distributed.all_reduce_mean(mean_residual))
        self.step += 1
        self.average.update(self.model, self.n_images, train.batch_size)
        return {**values, "lr": train.lr * factor, "adversarial_factor": adversarial}

    def _generator_gradients(
        self, batch: objectives.Batch, critic: nn.Module | None, adversarial: float
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
            noise = objectives.draw_noise(
                train.seed, self.step, here, self.config.model, loss, self.device
            )
            with self._autocast():
                done = self._generate(self.model, part, noise)
                losses = objectives.generator_losses(
                    self.model, done, part, noise, loss, self.networks, critic
                )
            total = objectives.weighted_sum(losses, loss, adversarial)
            (total / train.accumulate).backward()
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
        self, critic: nn.Module, batch: objectives.Batch, outputs: list[RenderOutput]
    ) -> dict[str, Tensor]:
        train, loss = self.config.train, self.config.loss
        assert self.optimiser_d is not None
        self.optimiser_d.zero_grad(set_to_none=True)
        due = r1_due(self.step, loss.r1_interval)
        sums: dict[str, Tensor] = {}
        parts = micro_batches(batch, len(batch["driving"]), train.accumulate)
        for out, (_, part) in zip(outputs, parts, strict=True):
            with self._autocast():
                losses = objectives.critic_losses(critic, out, part, loss, due)
            (torch.stack(list(losses.values())).sum() / train.accumulate).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() / train.accumulate
        return sums

    def _batches(self) -> Iterator[objectives.Batch]:
        train, data = self.config.train, self.config.data
        if self.step >= self.total_steps:
            return
        loader = PairLoader(
            self.dataset,
            "train",
            train.seed,
            train.batch_size,
            start_step=self.step,
            rank=self.rank,
            world=self.world,
            num_workers=data.num_workers,
            mirror=data.mirror,
        )
        for batch in loader:
            yield {name: x.to(self.device, non_blocking=True) for name, x in batch.items()}
            if self.step >= self.total_steps:
                return

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.train.precision == "bf16"
        )

    def _check_finite(self, values: dict[str, float]) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            first = next((name for name in bad if name != "total"), bad[0])
            kept = latest_train_state(self.out)
            where = f"; {kept.name} holds the last good weights" if kept else ""
            raise UserError(
                f"the loss {first!r} is {values[first]} at step {self.step}{where}; "
                "lower train.lr or set train.grad_clip and start from there"
            )

    # ---- start and resume ----------------------------------------------------------------------------------------

    def _adam(self, module: nn.Module, lr: float) -> torch.optim.Optimizer:
        train = self.config.train
        parameters = [p for p in module.parameters() if p.requires_grad]
        return torch.optim.AdamW(
            parameters, lr=lr, betas=train.betas, weight_decay=train.weight_decay
        )

    def resume(self) -> None:
        """Take up the newest state of the run directory, if there is one."""
        path = latest_train_state(self.out)
        if path is None:
            return
        state, metadata = load_train_state(path, self.device)
        if "expression" in metadata:
            check_provenance(metadata, self.dataset, str(path), self.config.data.verify)
        load_state_strict(self.model, state["model"], str(path))
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.discriminator is not None and self.optimiser_d is not None:
            load_state_strict(self.discriminator, state["discriminator"], str(path))
            self.optimiser_d.load_state_dict(state["optimiser_d"])
        self.step = int(state["step"])

    def _open_run_directory(self) -> RunDirectory:
        run = RunDirectory(self.out, self.config)
        run.record_start(self.facts())
        run.begin(self.step)
        return run

    def facts(self) -> dict[str, Any]:
        """What this start is made of, for record.json and --dry-run."""
        counts = {"generator": count_parameters(self.model)}
        if self.discriminator is not None:
            counts["discriminator"] = count_parameters(self.discriminator)
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "device": str(self.device),
            "processes": self.world,
            "threads": torch.get_num_threads(),
            "parameters": counts,
            "data": {
                "path": str(self.dataset.path),
                "n_clips": len(self.dataset.clips),
                "n_train_clips": len(self.dataset.clips_of("train")),
                "n_frames": len(self.dataset),
                **{k: v for k, v in self.dataset.spec.to_dict().items() if k != "expression"},
            },
            "loss_networks": self.networks.record(),
        }

    # ---- log, save, evaluate -------------------------------------------------------------------------------------

    def _log(self, run: RunDirectory, progress: ProgressLine, means: dict[str, float]) -> None:
        rate = progress.rate(self.n_images)
        run.scalars(self.step, {"n_images": self.n_images, **means, "images_per_s": round(rate, 3)})
        shown = [k for k in means if k in objectives.GENERATOR_TERMS]
        progress.report(self.n_images, "  ".join(f"{k} {means[k]:.4f}" for k in shown))

    def save(self, run: RunDirectory | None) -> None:
        """Network and state of this step; the main process writes, the others wait."""
        if run is not None:
            self._save_network(run)
            state = {
                "step": self.step,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            }
            if self.discriminator is not None and self.optimiser_d is not None:
                state["discriminator"] = self.discriminator.state_dict()
                state["optimiser_d"] = self.optimiser_d.state_dict()
            keep = self.config.train.keep_last
            about = {**provenance_of(self.dataset), "n_images": self.n_images}
            save_train_state(train_state_path(self.out, self.step), state, about, keep)
            run.prune("network", keep)
        distributed.barrier()

    def _save_network(self, run: RunDirectory, name: str = "network-latest.safetensors") -> None:
        path = self.out / f"network-{self.n_images:09d}.safetensors"
        save_checkpoint(path, self.average.state_dict(), self.metadata())
        run.publish(path, name)

    def metadata(self) -> dict[str, Any]:
        """What a network file says about itself."""
        return {
            "kind": "model",
            "config": to_dict(self.config),
            **provenance_of(self.dataset),
            "git": git_revision(),
            "step": self.step,
            "n_images": self.n_images,
            "weights": {"average_half_life_images": self.config.train.ema_images},
            "loss_networks": self.networks.record(),
            "data": self.dataset.spec.source,
        }

    def _evaluate(self, run: RunDirectory | None) -> None:
        split = held_out_split(self.dataset)
        if run is not None and split is not None and self.config.train.eval_pairs:
            found = evaluate(
                self.average.module,
                self.dataset,
                split,
                self.config.train.eval_pairs,
                device=self.device,
            )
            numbers = {f"eval/{k}": v for k, v in found.items() if isinstance(v, float)}
            run.scalars(self.step, {"n_images": self.n_images, **numbers})
            with atomic_write(self.out / "evaluation.json", "w") as file:
                json.dump({"n_images": self.n_images, **found}, file, indent=1)
        distributed.barrier()
        if self.watch is not None and self.dataset.space is not None:
            scores = self.watch(self.average.module, self.dataset.space, self.n_images)
            if run is not None:
                known = {f"protocol/{k}": v for k, v in scores.items() if math.isfinite(v)}
                run.scalars(self.step, {"n_images": self.n_images, **known})
                if self.watch.improved:
                    self._save_network(run, "network-best.safetensors")
            distributed.barrier()


def held_out_split(dataset: FrameDataset) -> str | None:
    """The split to look at while training: val, else test, if they have clips of two frames."""
    for split in ("val", "test"):
        clips = dataset.clips_of(split)
        if (dataset.clips["n_frames"][clips] >= 2).any():
            return split
    return None
