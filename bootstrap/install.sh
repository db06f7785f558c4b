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

# pip is one of the wheels: a node need have none, and making one by ensurepip takes longer than all the rest.
# It is unpacked, for out of its wheel it runs slower; and checked, for nothing has checked it yet.
python3.11 - "$wheels" <<'EOF'
import hashlib, pathlib, sys, zipfile

wheels = pathlib.Path(sys.argv[1])
found = list(wheels.glob("pip-*.whl"))
if len(found) != 1:
    sys.exit(f"install.sh: one wheel of pip is needed, there are {len(found)}")
digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
if f"--hash=sha256:{digest}" not in (wheels / "requirements-node.txt").read_text():
    sys.exit(f"install.sh: {found[0].name} is not the one of requirements-node.txt")
zipfile.ZipFile(found[0]).extractall(wheels / "pip")
EOF

# Not compiled: most modules are never imported, and Python compiles the others when they are.
python3.11 -m venv --without-pip "$home/venv"
PYTHONPATH="$wheels/pip" "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --no-index --no-compile --find-links "$wheels" --require-hashes --requirement "$wheels/requirements-node.txt"

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
