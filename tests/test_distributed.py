"""Collectives: answers of a world of one, and of two processes that torchrun starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dnnlib.errors import UserError
from torch_utils import distributed


def test_alone_everything_is_a_no_op(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with distributed.session("cpu") as device:
        assert device == torch.device("cpu")
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert distributed.is_main()
        distributed.barrier()
        x = torch.randn(3, requires_grad=True)
        mean = distributed.all_reduce_mean(x)
        assert torch.equal(mean, x) and not mean.requires_grad and mean is not x
        assert distributed.all_reduce_mean({"b": torch.tensor(2.0), "a": 1.5}) == {
            "b": 2.0,
            "a": 1.5,
        }
        layer = nn.Linear(2, 2)
        before = layer.weight.clone()
        distributed.broadcast_module(layer)
        assert torch.equal(layer.weight, before)
        distributed.print0("hello", end="!")
    assert capsys.readouterr().out == "hello!"


def test_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no GPU for local rank 0.*--device cpu"):
        distributed.init("cuda")


WORKER = """
import torch
from torch import nn
from torch_utils import distributed as d
from torch_utils.gradients import GradientMeans

with d.session("cpu") as device:
    r = d.rank()
    assert d.world_size() == 2 and d.is_main() == (r == 0)
    torch.manual_seed(r)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    net.eval()
    d.broadcast_module(net)
    torch.manual_seed(0)
    reference = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).eval()
    for a, b in zip(net.state_dict().values(), reference.state_dict().values()):
        assert torch.equal(a, b)
    # The gradient of the mean over the global batch.
    x = torch.randn(8, 3)
    net(x[r * 4 : r * 4 + 4]).square().mean().backward()
    if r == 1:
        net[2].bias.grad = None  # counts as zero
    else:
        net[2].bias.grad *= 2
    GradientMeans(net.parameters()).finish()
    reference(x).square().mean().backward()
    torch.testing.assert_close(net[0].weight.grad, reference[0].weight.grad)
    # Sent in many messages while the pass runs, after an earlier pass, with one parameter that nobody uses and one that
    # is used twice: to the bit what one message after it gives.
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))
            self.unused = nn.Parameter(torch.ones(3))

        def forward(self, x):
            for layer in [*self.layers, self.layers[2]]:
                x = torch.tanh(layer(x))
            return x.square().mean()

    passes = torch.randn(2, 2, 5, 8)  # pass, rank
    grads = []
    for n_bytes in (1, 300, 2**20):
        torch.manual_seed(3)
        net = Net()
        means = GradientMeans(net.parameters(), n_bytes)
        for turn in range(2):  # again, as in the next step
            net.zero_grad(set_to_none=True)
            net(passes[0, r]).backward()
            if n_bytes < 2**20:
                means.begin()
            net(passes[1, r]).backward()
            sent = len(means._sent)
            means.finish()
            assert (sent > 3) == (n_bytes < 2**20), sent  # most of them left before the end
        grads.append([p.grad.clone() for p in net.parameters()])
    for other in grads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads[0], other, strict=True))
    assert any(g.shape == (3,) and not g.any() for g in grads[0])
    own = torch.cat([g.reshape(-1) for g in grads[0]])
    assert torch.equal(d.all_reduce_mean(own), own) and own.any()  # the same in both
    assert d.all_reduce_mean({"z": float(r), "a": torch.tensor(10.0 * r)}) == {"z": 0.5, "a": 5.0}
    assert d.all_reduce_mean(torch.tensor([1.0 * r, 4.0])).tolist() == [0.5, 4.0]
    d.barrier()
    d.print0("only once")
assert d.world_size() == 1
"""


def test_two_processes(tmp_path: Path, repo_root: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("only once") == 1
