#!/bin/bash
# Copy a data set to the node's own disk, once a node, however many tasks ask; prints where it is.
#   DATA=$(docs/cluster/stage.sh /shared/vfhq /local)
set -eu
from=${1:?the data set} disk=${2:?a folder on a disk of the node}
to=$disk/$(basename "$from")
mkdir -p "$disk"
exec 9> "$to.lock"
flock 9 # the first one copies, the others wait for it
if [ ! -e "$to.complete" ] || ! cmp -s "$from/dataset.json" "$to/dataset.json"; then
    rm -f "$to.complete"
    mkdir -p "$to"
    cp -a "$from/." "$to/"
    touch "$to.complete"
fi
echo "$to"
