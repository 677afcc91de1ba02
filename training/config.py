"""The configuration: every default of the project, once.

`configs/*.yaml` hold only what differs from here; `--set model.generator.depth=6` changes one value from the
command line. The loader (`dnnlib.config`) refuses unknown and ill-typed keys.

Letters of the paper: H image resolution, beta expression parameters, beta' refined expression, lambda expression
coefficients, n number of bases, d their dimension, h token width, T the tri-plane.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from conventions.cameras import CAMERA_RADIUS
from dnnlib.config import READS

# Names of what a run writes into its folder (running/records.py), for the comparison with what it reads.
_RUN_FILES = (
    "config.yaml",
    "record.json",
    "stats.jsonl",
    "skipped.jsonl",
    "evaluation.json",
    "events.out.*",
    "profile",
)
TRAIN_FILES = (*_RUN_FILES, "images", "state-*.safetensors", "network-*.safetensors", "protocol")
PRETRAIN_FILES = (*_RUN_FILES, "state-*.safetensors", "clebs-*.safetensors")

_MOST = 1e12  # of any number below: more is a slip of the keyboard
_MOST_LAYERS = 1000  # blocks and layers in a row: modules are made one by one
_MOST_SAMPLES = 10_000  # of a ray
_LIMITS = {
    **dict.fromkeys(("layers", "depth", "source_depth", "blocks"), _MOST_LAYERS),
    **dict.fromkeys(("samples_coarse", "samples_fine"), _MOST_SAMPLES),
}


def at_least(low: float, where: str, section: object, *names: str) -> None:
    """ValueError when one of these numbers (or one of a tuple) is below `low`, NaN, or beyond all reason."""
    for name in names:
        value = getattr(section, name)
        limit = _LIMITS.get(name, _MOST)
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= limit:  # nor NaN
                most = "" if number <= limit else f" and at most {limit:g}"
                raise ValueError(f"{where}.{name} is {value}; use at least {low}{most}".lstrip("."))


@dataclass(frozen=True)
class ExpressionConfig:
    """CLeBS and its ablations (paper, sec. 3.2 and the ablation table)."""

    mode: Literal["clebs", "lebs", "identity"] = "clebs"  # contrastive | end to end | beta as it is
    n_bases: int = 10  # n, expression coefficients lambda
    dim: int = 512  # d, width of beta'
    hidden: int = 256  # width of the MLP that gives lambda
    layers: int = 4  # linear layers of that MLP


@dataclass(frozen=True)
class GeneratorConfig:
    """Hybrid convolution / ViT generator G(S, beta') -> T (paper, sec. 3.3)."""

    stem_channels: tuple[int, int, int, int] = (32, 64, 128, 256)  # features at H, H/2, H/4, H/8
    width: int = 512  # h, token width
    depth: int = 8  # EAdaLN-ViT blocks
    source_depth: int = 0  # ours: plain blocks in front of them, once per source
    heads: int = 8  # attention heads
    ffn_ratio: float = 4.0  # hidden width of Mix-FFN / h
    # how tokens see beta'; cross_attention is the ablation
    conditioning: Literal["eadaln", "cross_attention"] = "eadaln"
    cross_tokens: int = 16  # tokens made of beta' for cross attention
    fuse_channels: tuple[int, int] = (256, 128)  # features at H/4 and H/2 where the stem path joins
    plane_channels: int = 32  # of each of the three planes
    plane_mean_decay: float = 0.998  # of T_EMA, per training step
    # ours, beside the paper's (docs/architecture.md):
    align: Literal["none", "source"] = "none"  # stem features undo the source's pose, see stem.py
    texture: Literal["planes", "source"] = "planes"  # also the source's pixels, see texture.py
    texture_visible: bool = False  # only where the source saw the surface, else the volume's image
    texture_inside: bool = False  # no lips in an open mouth, no teeth on lips, see motion.py
    motion_modes: int = 0  # rank of the fields that beta' moves the texture with, see motion.py
    expression_map: int = 0  # channels made of beta' alone that join at H/4, see planes.py
    background: Literal["volume", "image"] = (
        "volume"  # paper | a 2D layer behind the volume, from the source
    )


@dataclass(frozen=True)
class RenderConfig:
    """Volume rendering (paper, sec. 3.4; the numbers of EG3D)."""

    planes: Literal["xyz", "eg3d_legacy"] = (
        "xyz"  # XY, YZ, ZX | XY, XZ, ZX as EG3D's released code samples
    )
    box_side: float = 1.0  # world units, centred at the origin
    near: float = 2.25  # ray distance, world units
    far: float = 3.3  # ray distance, world units
    samples_coarse: int = 48  # of a ray, evenly spaced
    samples_fine: int = 48  # of a ray, where the coarse ones found matter
    hidden: int = 64  # decoder width
    ray_chunk: int = 0  # impl=ref: rays rendered at a time per image; 0 = all
    impl: Literal["auto", "ref", "cpu", "cuda"] = "auto"  # fused operator | plain torch
    quality: Literal["full", "fast", "draft"] = "full"  # without gradients: less work (docs/ops.md)


@dataclass(frozen=True)
class SuperResolutionConfig:
    """From the raw image to H by plain convolutions (paper, sec. 3.4)."""

    # At every size on the way, doubling up to H. Their number is the raw image's size: three are the paper's H/4.
    channels: tuple[int, ...] = (128, 64, 32)
    blocks: int = 2  # residual blocks at the raw image's size


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Dual discriminator: final image and up-sampled raw image, 6 channels (paper, sec. 3.5)."""

    base_channels: int = 32  # at full resolution, doubled at each halving
    max_channels: int = 512  # of any size
    camera_dim: int = (
        128  # width of the camera embedding it is projected on; 0 = no camera condition
    )
    minibatch_std_group: int = 4  # pictures whose standard deviation is shown to it


@dataclass(frozen=True)
class ModelConfig:
    resolution: int = 256  # H = W
    expression: ExpressionConfig = field(default_factory=ExpressionConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    render: RenderConfig = field(default_factory=RenderConfig)
    superresolution: SuperResolutionConfig = field(default_factory=SuperResolutionConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    @property
    def raw_resolution(self) -> int:
        """Side of the rendered image in pixels: H/4 with three sizes of super-resolution."""
        return self.resolution >> (len(self.superresolution.channels) - 1)

    def __post_init__(self) -> None:
        if self.resolution < 32 or self.resolution % 16:
            raise ValueError(f"resolution is {self.resolution}; use a multiple of 16 from 32 up")
        e, g, r, d = self.expression, self.generator, self.render, self.discriminator
        at_least(1, "expression", e, "n_bases", "dim", "hidden", "layers")
        at_least(1, "generator", g, "width", "depth", "heads", "cross_tokens", "stem_channels")
        at_least(1, "generator", g, "fuse_channels", "ffn_ratio")
        at_least(3, "generator", g, "plane_channels")
        at_least(0, "generator", g, "expression_map", "plane_mean_decay")
        at_least(0, "generator", g, "motion_modes", "source_depth")
        at_least(2, "render", r, "samples_coarse")
        at_least(1, "render", r, "hidden")
        at_least(0, "render", r, "samples_fine", "ray_chunk")
        at_least(1, "superresolution", self.superresolution, "channels")
        at_least(0, "superresolution", self.superresolution, "blocks")
        if not 1 <= len(self.superresolution.channels) <= 4:
            raise ValueError(
                f"superresolution.channels has {len(self.superresolution.channels)} values; give 3 for a raw image of "
                "a quarter of the side (the paper's), 2 for a half, 1 for all of it"
            )
        at_least(1, "discriminator", d, "base_channels", "max_channels", "minibatch_std_group")
        at_least(0, "discriminator", d, "camera_dim")
        if g.width % g.heads:
            raise ValueError(
                f"generator.width {g.width} is not divisible by generator.heads {g.heads}"
            )
        if g.motion_modes and g.texture != "source":
            raise ValueError(
                "generator.motion_modes needs generator.texture=source, which it moves"
            )
        if g.texture_visible and g.texture != "source":
            raise ValueError(
                "generator.texture_visible needs generator.texture=source, which it is about"
            )
        if g.texture_inside and not (g.motion_modes and g.texture_visible):
            raise ValueError(
                "generator.texture_inside needs generator.texture_visible=true and generator.motion_modes above 0"
            )
        if g.align == "source" and r.planes == "eg3d_legacy":
            raise ValueError("generator.align=source needs render.planes=xyz")
        if not 0 < r.near < r.far:
            raise ValueError(
                f"render.near {r.near} and render.far {r.far} must satisfy 0 < near < far"
            )
        if not 0 < r.box_side < 2 * CAMERA_RADIUS:
            raise ValueError(
                f"render.box_side {r.box_side} must lie between 0 and the camera's 5.4"
            )
        if e.mode != "identity" and e.n_bases > e.dim:
            raise ValueError(f"expression.n_bases {e.n_bases} is above expression.dim {e.dim}")


@dataclass(frozen=True)
class DataConfig:
    path: str = field(default="", metadata=READS)  # of dataset_tool.py, or an EG3D folder or zip
    mirror: bool = True  # left-right flips, camera and beta included
    bfm_model: str = field(default="", metadata=READS)  # Basel model, says how bfm64 mirrors
    num_workers: int = 2  # processes that read frames, of each training process
    verify: bool = True  # compare crop, tracker and expression space with the checkpoint's
    unreadable_limit: int = 100  # frames that may be replaced by a neighbour before training stops

    def __post_init__(self) -> None:
        at_least(0, "", self, "num_workers", "unreadable_limit")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the generator's loss; 0 switches a term (and its network) off."""

    l1: float = 1.0  # mean absolute error of the image
    l1_raw: float = 1.0  # of the raw image
    gradient: float = 0.0  # L1 of finite differences
    perceptual: float = 1.0  # LPIPS or ST-LPIPS of the image
    perceptual_crop: int = (
        0  # pixels; the final images meet on a random crop of this side; 0 = whole
    )
    perceptual_raw: float = 0.0  # of the raw image
    perceptual_net: str = "auto"  # auto: LPIPS when perceptual_weights is given, else ST-LPIPS
    perceptual_weights: str = field(default="", metadata=READS)  # file of LPIPS' network
    identity: float = 0.1  # 1 - cos of a face recognition embedding
    identity_net: str = "auto"  # auto: ArcFace when identity_weights is given, else SFace
    identity_weights: str = field(default="", metadata=READS)  # file of ArcFace
    # what the tracker reads from the output against beta, see losses/expression.py; ours
    expression: float = 0.0
    expression_crossed: float = 0.25  # share of a batch that another person's beta drives
    adversarial: float = 0.1  # against the dual discriminator
    r1_gamma: float = 1.0  # of the penalty on the discriminator's gradient
    r1_interval: int = 16  # steps between R1 penalties
    density_tv: float = 0.25  # variation of the density between close points
    density_tv_points: int = 1024  # pairs of points of an image
    density_tv_distance: float = 0.004  # world units between the two points of a pair
    opacity: float = 0.0  # needs a mask in the data
    depth: float = 0.0  # needs depth in the data
    face_weight: float = 0.0  # extra weight of eyes and mouth in the pixel losses
    painted_weight: float = 0.0  # of what the photo does not show, likewise; with texture_visible

    def __post_init__(self) -> None:
        at_least(0, "", self, "r1_gamma", "perceptual_crop", "density_tv_distance", "face_weight")
        at_least(0, "", self, "expression_crossed", "painted_weight")
        at_least(1, "", self, "r1_interval", "density_tv_points")


@dataclass(frozen=True)
class TrainConfig:
    batch_size: int = 32  # global, over all ranks
    total_images: int = 16_000_000  # length of the training, in target images
    warmup_images: int = 1_000_000  # reconstruction only, before the adversarial loss comes in
    adversarial_ramp_images: int = 200_000  # in which the adversarial loss then grows to its weight
    lr: float = 2e-4  # learning rate of the generator (Adam)
    lr_discriminator: float = 2e-4  # of the discriminator
    lr_warmup_images: int = 10_000  # in which learning rates grow from 0
    lr_decay_images: int = (
        0  # the last so many images go down to lr_final on a cosine; 0 = constant
    )
    lr_final: float = 0.0  # where the decay ends
    betas: tuple[float, float] = (0.0, 0.99)  # of Adam
    weight_decay: float = 0.0  # of AdamW; 0 = Adam
    grad_clip: float = 0.0  # 0 = off
    ema_images: int = 10_000  # half-life of the weight average
    # parts of the generator that learn, such as motion and expression; empty: all
    learn: tuple[str, ...] = ()
    accumulate: int = 1  # gradient accumulation: forward-backward passes per step
    precision: Literal["fp32", "bf16", "fp16"] = (
        "fp32"  # of the forward and backward passes; weights are fp32
    )
    gradient_checkpointing: bool = False  # less memory, more time (docs/training.md)
    compile: bool = False  # torch.compile of the generator
    seed: int = 0  # of every random number
    threads: int = 0  # CPU threads per process; 0 = torch's choice
    log_every: int = 10  # steps
    image_every: int = 1000  # steps between image grids
    save_every: int = 1000  # steps
    keep_last: int = 3  # training states
    keep_every: int = 0  # steps; states and networks of these are kept for good; 0 = none
    hang_limit_s: float = (
        900.0  # a step that stands still so long ends the run, saying where; 0 = never
    )
    skip_limit: int = 5  # steps in a row that may be left out because something was not finite
    eval_every: int = 0  # steps; 0 = only at the end
    eval_pairs: int = 64  # pairs of an evaluation
    # file of calc_metrics.py protocol on data.path, scored at every evaluation
    protocol: str = field(default="", metadata=READS)
    clebs: str = field(
        default="", metadata=READS
    )  # checkpoint of pretrain.py; needed by mode clebs
    # lambda to mean 0, deviation 1 over the data, before the first step; not of init_from's
    standardise_clebs: bool = False
    freeze_clebs: bool = True  # paper; False: the contrastive weights are only where f_e starts
    init_motion: bool = (
        False  # motion fields start as those of the synthetic head (spaces with ARKit units)
    )
    init_from: str = field(default="", metadata=READS)  # start anew from these weights
    init_model: bool = False  # `model` is that of init_from, before presets and --set change it
    anchor: float = 0.0  # decay towards the weights at the start: w -= lr anchor (w - w_0)

    def __post_init__(self) -> None:
        at_least(1, "", self, "batch_size", "total_images", "accumulate", "log_every")
        at_least(1, "", self, "image_every", "save_every", "keep_last", "ema_images", "skip_limit")
        at_least(0, "", self, "warmup_images", "adversarial_ramp_images", "lr_warmup_images")
        at_least(0, "", self, "lr_decay_images", "lr_final", "betas", "weight_decay", "grad_clip")
        at_least(0, "", self, "threads", "eval_every", "eval_pairs", "seed")
        at_least(0, "", self, "keep_every", "hang_limit_s", "anchor")
        if not (0 < self.lr <= 1 and 0 < self.lr_discriminator <= 1):
            raise ValueError("lr and lr_discriminator must be above 0 and at most 1")


@dataclass(frozen=True)
class PretrainConfig:
    """Contrastive pre-training of CLeBS (paper, sec. 3.2)."""

    denominator: Literal["all", "negatives"] = "all"  # InfoNCE | the printed sum without j = k
    videos_per_batch: int = 8  # clips of a step, over all ranks
    frames_per_video: int = 32  # K
    temperature: float = 0.07  # tau at the start; learned
    image_size: int = 128  # f_I sees the crop at this size
    image_channels: int = 64  # width of f_I's first stage; 64 = ResNet-18 size
    total_steps: int = 20_000  # length of the pre-training
    lr: float = 3e-4  # learning rate (Adam)
    weight_decay: float = 1e-4  # of AdamW; 0 = Adam
    augment: bool = True  # colour and small shifts, the same for all frames of a video
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # as in train
    seed: int = 0  # as in train
    threads: int = 0  # as in train
    log_every: int = 10  # steps
    save_every: int = 1000  # steps
    keep_last: int = 2  # training states
    keep_every: int = 0  # steps; kept for good; 0 = none
    hang_limit_s: float = 900.0  # as in train
    skip_limit: int = 5  # as in train

    def __post_init__(self) -> None:
        at_least(1, "", self, "videos_per_batch", "image_channels", "total_steps", "log_every")
        at_least(1, "", self, "save_every", "keep_last", "skip_limit")
        at_least(2, "", self, "frames_per_video")
        at_least(16, "", self, "image_size")
        at_least(0, "", self, "weight_decay", "threads", "seed", "keep_every", "hang_limit_s")
        if not (0 < self.lr <= 1 and 0 < self.temperature <= _MOST):
            raise ValueError("lr and temperature must be above 0, and lr at most 1")


@dataclass(frozen=True)
class Config:
    name: str = "paper256"  # of the preset
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
