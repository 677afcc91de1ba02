"""Which values of a configuration may change in a run that exists, and which may differ between its processes."""

from __future__ import annotations

from running.keys import KeyRules

KEY_RULES = KeyRules(
    free=frozenset(
        {
            "name",
            "data.path",
            "data.bfm_model",
            "data.num_workers",
            "data.unreadable_limit",
            "train.total_images",
            "train.lr_decay_images",
            "train.log_every",
            "train.image_every",
            "train.save_every",
            "train.keep_last",
            "train.skip_limit",
            "train.hang_limit_s",
            "train.keep_every",
            "train.eval_every",
            "train.eval_pairs",
            "train.protocol",
            "pretrain.total_steps",
            "pretrain.log_every",
            "pretrain.save_every",
            "pretrain.keep_last",
            "pretrain.keep_every",
            "pretrain.skip_limit",
            "pretrain.hang_limit_s",
        }
    ),
    sections=frozenset({"train", "pretrain", "loss"}),
    for_good=frozenset(
        {
            *(f"train.{k}" for k in ("seed", "batch_size", "clebs", "init_from", "init_motion")),
            *(f"train.{k}" for k in ("standardise_clebs", "init_model", "learn")),
            *(f"pretrain.{k}" for k in ("seed", "videos_per_batch", "frames_per_video")),
            "pretrain.image_channels",
        }
    ),
    # A node may read its own copy of the data with as many processes as it has cores.
    of_a_node=frozenset(
        {"data.path", "data.bfm_model", "data.num_workers", "train.threads", "pretrain.threads"}
    ),
)
