"""FID's Inception network: the TensorFlow graph of 2015, weights pt_inception-2015-12-05-6726825d.pth.

It has the modules and names of torchvision's Inception v3 with 1008 classes and without the auxiliary head, and differs
in its pooling: averages leave out the padding, and the last block takes a maximum where the paper has an average.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnnlib.errors import UserError
from pretrained.weights import read_weights
from torch_utils.checkpoints import load_state_strict

N_FEATURES = 2048
N_CLASSES = 1008
INPUT_PX = 299
_STEM = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "pool"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "pool"),
)
_AVERAGED = ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")
_BLOCKS = (
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d"),
    *("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"),
)


class FidInception(nn.Module):
    """[N, 3, H, W] in [0, 1] -> features float32 [N, 2048]. Make it with `fid_inception`."""

    def __init__(self) -> None:
        from torchvision.models import Inception3  # here: slow to import

        super().__init__()
        self.net = Inception3(num_classes=N_CLASSES, aux_logits=False, init_weights=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FidInception:
        return super().train(False)  # frozen: has no training mode

    def forward(self, images: Tensor) -> Tensor:
        x = functional.interpolate(images, size=(INPUT_PX, INPUT_PX), mode="bilinear")
        x = 2 * x - 1
        for name in _STEM:
            x = functional.max_pool2d(x, 3, 2) if name == "pool" else self._module(name)(x)
        for name in _BLOCKS:
            x = self._block(name, x)
        return x.mean(dim=(2, 3)).float()

    def _module(self, name: str) -> nn.Module:
        return self.net.get_submodule(name)

    def _block(self, name: str, x: Tensor) -> Tensor:
        """A block of torchvision with the pooled branch, its last channels, computed as the graph does."""
        block = self._module(name)
        out: Tensor = block(x)
        if name in (*_AVERAGED, "Mixed_7b"):
            pooled = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        elif name == "Mixed_7c":
            pooled = functional.max_pool2d(x, 3, stride=1, padding=1)
        else:
            return out
        branch: Tensor = block.get_submodule("branch_pool")(pooled)
        return torch.cat([out[:, : -branch.shape[1]], branch], dim=1)


def fid_inception(path: Path) -> FidInception:
    """The network with the weights of a file.

    Raises:
        UserError: the weights are missing, damaged or of another network.
    """
    state = read_weights(path)
    classes = state.get("fc.weight")
    if classes is None or classes.shape[0] != N_CLASSES:
        found = "no classes" if classes is None else f"{classes.shape[0]} classes"
        raise UserError(
            f"{path} has {found} where FID's Inception has {N_CLASSES}; give pt_inception-2015-12-05-6726825d.pth"
        )
    network = FidInception()
    # num_batches_tracked is absent from files that were converted from TensorFlow and is not used.
    wanted = network.net.state_dict()
    counters = {k: v for k, v in wanted.items() if k.endswith("num_batches_tracked")}
    load_state_strict(network.net, {**counters, **state}, str(path))
    return network
