"""Two nodes that are two network namespaces of this machine: what happens when one is lost, cut off or different.

Runs where namespaces may be made (as root, with `ip`). With EXPORT3D_NODES=FILE the findings are written there as JSON;
docs/cluster.md shows them. EXPORT3D_RESTARTS=12 asks for more restarts than the test usually makes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_support import (
    ROOT,
    TIMEOUT,
    Ended,
    Job,
    arguments,
    environment,
    free_port,
    nodes_table,
)
from training_support import make_dataset, tiny, trainer

from dnnlib import write_json
from training.checkpoints import latest_train_state, train_state_path

ADDRESSES = ("10.99.7.1", "10.99.7.2")
LINK = "link0"
CUT_S = 20.0
RESTARTS = int(os.environ.get("EXPORT3D_RESTARTS", "2"))
# A node's name is its address, so that the others find it without a name server.
_NAMED = (
    "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"
)
OPTIONS = ("train.eval_pairs=0", "train.save_every=2")
pytestmark = pytest.mark.slow


class Nodes:
    """Two namespaces and the cable between them."""

    def __init__(self) -> None:
        self.names = tuple(f"export3d-{os.getpid()}-{i}" for i in range(2))

    def __enter__(self) -> Nodes:
        for name in self.names:
            _ip("netns", "add", name)
        first, second = self.names
        _ip("link", "add", LINK, "netns", first, "type", "veth", "peer", LINK, "netns", second)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", LINK)
            _ip("-n", name, "link", "set", LINK, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def place(self, node: int, words: list[str]) -> list[str]:
        """`words`, run on a node; the process is the same one."""
        inside = ["ip", "netns", "exec", self.names[node], "unshare", "--uts", sys.executable, "-c"]
        return [*inside, _NAMED, ADDRESSES[node], *words]

    def cable(self, state: str) -> None:
        _ip("-n", self.names[1], "link", "set", LINK, state)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("needs the commands ip and unshare")
    made = Nodes()
    try:
        made.__enter__()
    except subprocess.CalledProcessError as error:
        made.__exit__()
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
    yield made
    made.__exit__()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "heads")


def started(nodes: Nodes, commands: list[list[str]], logs: Path) -> Job:
    """One process a node; it was told the first node's address."""
    variables = {"MASTER_ADDR": ADDRESSES[0], "GLOO_SOCKET_IFNAME": LINK, "FAULT": "slow"}
    return Job(commands, logs, nodes.place, **variables)


def slow_train(data: Path, out: Path, steps: int, *overrides: str) -> list[str]:
    options = (*OPTIONS, f"train.total_images={4 * steps}", *overrides)
    return ["tests/faulty_train.py", *arguments(data, out, *options)]


def record(event: str, ended: Ended, end: str) -> None:
    if place := os.environ.get("EXPORT3D_NODES"):
        path = Path(place)
        known = json.loads(path.read_text()) if path.is_file() else {}
        known[event] = {"exit_status": ended.codes, "seconds": round(ended.seconds, 1), "end": end}
        write_json(path, known)


def told(ended: Ended, text: str) -> str:
    (line,) = [x for x in ended.output.splitlines() if text in x]  # once, by one process
    return line


def test_a_node_that_is_lost_ends_the_other_and_the_command_goes_on(
    nodes: Nodes, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    commands = [slow_train(data, out, 8)] * 2
    job = started(nodes, commands, tmp_path / "logs")
    job.wait_for(out / "stats.jsonl", '"step": 3')
    since = time.monotonic()
    job.processes[1].kill()
    ended = job.wait(since)
    assert ended.codes == [1, -signal.SIGKILL], ended.output
    line = told(ended, "another process of the run is gone")
    assert line.startswith(f"[rank 0, {ADDRESSES[0]}]") and "Traceback" not in ended.output
    again = started(nodes, commands, tmp_path / "again").wait()
    assert again.codes == [0, 0], again.output
    assert latest_train_state(out) == train_state_path(out, 8)
    record("SIGKILL of one node", ended, f"{line}; it does, to the end")


def test_a_link_that_is_cut_for_a_while_holds_the_run_up(
    nodes: Nodes, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    job = started(nodes, [slow_train(data, out, 12)] * 2, tmp_path / "logs")
    job.wait_for(out / "stats.jsonl", '"step": 3')
    since = time.monotonic()
    nodes.cable("down")
    try:
        time.sleep(CUT_S)
        steps = (out / "stats.jsonl").read_text().count("\n")
        assert steps < 12 and all(p.poll() is None for p in job.processes), job.ended_output()
    finally:
        nodes.cable("up")
    ended = job.wait(since)
    assert ended.codes == [0, 0], ended.output
    assert latest_train_state(out) == train_state_path(out, 12)
    record(f"link cut for {CUT_S:.0f} s", ended, "the run waits and goes on by itself to the end")


@pytest.mark.parametrize("what", ["lr", "disk"])
def test_a_node_that_differs_is_named(nodes: Nodes, data: Path, tmp_path: Path, what: str) -> None:
    first = second = tmp_path / "run"
    changes: list[str] = []
    if what == "lr":
        changes, key, event = ["train.lr=1e-3"], r"train\.lr=0\.001", "another lr on node 2"
    else:
        second, key, event = tmp_path / "own", "the newest state=nothing", "own disk on each node"
        trainer(tiny(data, *OPTIONS, "train.total_images=8"), first).run()
    before = sorted(tmp_path.rglob("state-*"))
    commands = [slow_train(data, first, 8), slow_train(data, second, 8, *changes)]
    ended = started(nodes, commands, tmp_path / "logs").wait()
    assert ended.codes == [1, 1], ended.output
    line = told(ended, f"rank 1 on {ADDRESSES[1]} has ")
    assert re.search(f"{key} but rank 0 on {re.escape(ADDRESSES[0])}", line), line
    assert sorted(tmp_path.rglob("state-*")) == before
    record(event, ended, line.removeprefix("Error: "))


def test_restarts_go_on_from_the_newest_state(nodes: Nodes, data: Path, tmp_path: Path) -> None:
    """docs/cluster/node.sh on both nodes; a training process of the second is killed again and again."""
    out, steps = tmp_path / "run", 4 * (RESTARTS + 1)
    words = slow_train(data, out, steps)[1:]
    variables = {
        **environment(), "NODES": "2", "PROCESSES": "1", "FIRST": f"{ADDRESSES[0]}:{free_port()}",
        "RESTARTS": str(RESTARTS), "PYTHON": sys.executable, "SCRIPT": "tests/faulty_train.py", "FAULT": "slow",
        "GLOO_SOCKET_IFNAME": LINK,
    }  # fmt: skip
    script = str(ROOT / "docs" / "cluster" / "node.sh")
    logs = [tmp_path / f"node{i}.log" for i in range(2)]
    agents = []
    begun = time.monotonic()
    for node, log in enumerate(logs):
        with open(log, "w") as file:
            agents.append(
                subprocess.Popen(nodes.place(node, [script, *words]), cwd=ROOT, env=variables, stdout=file, stderr=file)
            )  # fmt: skip
    deadline = begun + TIMEOUT * (1 + RESTARTS / 4)

    def output() -> str:
        return "\n".join(log.read_text() for log in logs)

    try:
        for killed in range(RESTARTS):
            wanted = f'"step": {4 * killed + 3}'  # a state of two steps before is on the disk
            while not (
                (out / "stats.jsonl").is_file() and wanted in (out / "stats.jsonl").read_text()
            ):
                assert time.monotonic() < deadline and agents[0].poll() is None, output()
                time.sleep(0.05)
            (worker,) = _children(agents[1].pid)
            os.kill(worker, signal.SIGKILL)
        codes = [agent.wait(timeout=max(1.0, deadline - time.monotonic())) for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:
                agent.kill()
    ended = Ended(codes, [log.read_text() for log in logs], time.monotonic() - begun)
    assert codes == [0, 0], ended.output
    assert latest_train_state(out) == train_state_path(out, steps)
    starts = json.loads((out / "record.json").read_text())["starts"]
    assert len(starts) == RESTARTS + 1 and starts[-1]["ended"]["how"] == "done"
    record(f"{RESTARTS} kills of a process, node.sh with RESTARTS={RESTARTS}", ended,
           f"{len(starts) - 1} restarts, each from the newest state, to the end")  # fmt: skip


def _children(pid: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_table_of_nodes_is_the_recorded_one() -> None:
    recorded = json.loads((ROOT / "benchmarks" / "results" / "nodes.json").read_text())
    assert nodes_table(recorded) in (ROOT / "docs" / "cluster.md").read_text()
