#!/usr/bin/env bash
# EMR bootstrap action: the Python environment of the job code, on every node.
#
#   install.sh s3://<bucket>/wheelhouse/<digest>
#
# Installs pinned, hash-checked wheels from the bucket, so nodes need no internet.
# EMR_NODE_ROOT is empty on AWS; the local EMR sets it to the folder that stands for the node.
set -euo pipefail

wheelhouse=${1:?usage: install.sh s3://<bucket>/wheelhouse/<digest>}
home="${EMR_NODE_ROOT:-}/opt/image-features"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT

echo "wheels: $wheelhouse/$(uname -m)"
aws s3 cp --recursive --only-show-errors "$wheelhouse/$(uname -m)" "$wheels"
du -sh "$wheels" | cut -f1

sudo mkdir -p "$home"
sudo chown "$(id -u):$(id -g)" "$home"
python3.11 -m venv "$home/venv"
"$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-index \
  --find-links "$wheels" --require-hashes --requirement "$wheels/requirements-node.txt"

# Fails here, not in the first step, when a wheel does not fit the machine.
"$home/venv/bin/python" - <<'EOF'
import importlib.metadata as metadata
import sys

import ai_edge_litert.interpreter, numpy, obstore, PIL, pyarrow.parquet

print("python", sys.version.split()[0], sys.executable)
for name in ("ai-edge-litert", "numpy", "obstore", "pillow", "pyarrow"):
    print(name, metadata.version(name))
EOF
echo "ready after ${SECONDS} s"
