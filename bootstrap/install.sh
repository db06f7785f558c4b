#!/usr/bin/env bash
# EMR bootstrap action: the Python environment of the job code, on every node.
#
#   install.sh s3://<bucket>/wheelhouse/<digest>
#
# Installs pinned, hash-checked wheels from the bucket, so nodes need no internet.
# EMR_NODE_ROOT is empty on AWS; the local EMR sets it to the folder of the node.
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

# pip is one of the wheels, so a node needs no pip of its own; ensurepip takes longer than all other steps here.
# It is unpacked, because it runs slower from its wheel, and checked, because nothing has checked it before.
python3.11 - "$wheels" <<'EOF'
import hashlib, pathlib, sys, zipfile

wheels = pathlib.Path(sys.argv[1])
pips = list(wheels.glob("pip-*.whl"))
if len(pips) != 1:
    sys.exit(f"install.sh: one wheel of pip is needed, there are {len(pips)}")
digest = hashlib.sha256(pips[0].read_bytes()).hexdigest()
if f"--hash=sha256:{digest}" not in (wheels / "requirements-node.txt").read_text():
    sys.exit(f"install.sh: {pips[0].name} is not the one of requirements-node.txt")
zipfile.ZipFile(pips[0]).extractall(wheels / "pip")
EOF

# Not compiled: most modules are never imported, and Python compiles the others on import.
python3.11 -m venv --without-pip "$home/venv"
PYTHONPATH="$wheels/pip" "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --no-index --no-compile --find-links "$wheels" --require-hashes --requirement "$wheels/requirements-node.txt"

# If a wheel does not fit the machine, this fails here and not in the first step.
"$home/venv/bin/python" - <<'EOF'
import importlib.metadata as metadata
import sys

import ai_edge_litert.interpreter, numpy, obstore, PIL, pyarrow.parquet

print("python", sys.version.split()[0], sys.executable)
for name in ("ai-edge-litert", "numpy", "obstore", "pillow", "pyarrow"):
    print(name, metadata.version(name))
EOF
echo "ready after ${SECONDS} s"
