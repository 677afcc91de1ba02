#!/bin/bash
# One node of a training under torchrun; the same command on every node.
#   NODES=2 FIRST=node1:29500 docs/cluster/node.sh --preset paper256 --data DATA --out RUN --clebs CLEBS
set -eu
cd "$(dirname "$0")/../.."
NODES=${NODES:-2}              # how many nodes
FIRST=${FIRST:-localhost:29500} # one of them, and a free port there
PROCESSES=${PROCESSES:-8}      # a node: its GPUs
PYTHON=${PYTHON:-.venv/bin/python}
SCRIPT=${SCRIPT:-train.py}

# Without it a restart can hang for ever (pytorch/pytorch issue 135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# torchrun dies of SIGUSR1 unless it is told to pass it on.
export TORCHELASTIC_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1

exec "$PYTHON" -m torch.distributed.run \
    --nnodes "$NODES" --nproc-per-node "$PROCESSES" --max-restarts "${RESTARTS:-3}" \
    --rdzv-backend c10d --rdzv-endpoint "$FIRST" --rdzv-id export3d \
    "$SCRIPT" "$@"
