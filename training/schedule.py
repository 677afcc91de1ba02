"""What changes with the number of images seen: learning rate, adversarial weight. Pure functions, nothing to save."""

from __future__ import annotations

import math

from training.config import TrainConfig


def learning_rate_factor(config: TrainConfig, n_images: int) -> float:
    """Factor of `lr` after `n_images` images: a linear warm-up, a plateau, and a cosine down to lr_final / lr.

    The factor of `lr_discriminator` is the same.
    """
    factor = 1.0
    if config.lr_warmup_images:
        # + batch_size: the first step already moves
        factor = min(1.0, (n_images + config.batch_size) / config.lr_warmup_images)
    start = config.total_images - config.lr_decay_images
    if config.lr_decay_images and n_images > start:
        share = min(1.0, (n_images - start) / config.lr_decay_images)
        final = config.lr_final / config.lr
        factor *= final + (1 - final) * (1 + math.cos(math.pi * share)) / 2
    return factor


def adversarial_factor(config: TrainConfig, n_images: int) -> float:
    """0 during the reconstruction-only warm-up, then a linear ramp up to 1."""
    past = n_images - config.warmup_images
    if past < 0:
        return 0.0
    if not config.adversarial_ramp_images:
        return 1.0
    return min(1.0, (past + config.batch_size) / config.adversarial_ramp_images)
