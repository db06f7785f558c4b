#!/bin/sh
# Starts Airflow's API server with the one user of .env. The simple auth manager opens its file of passwords for
# writing, so the file cannot be a mounted secret.
set -eu
umask 077
python - <<'PYTHON'
import json
import os
from pathlib import Path

file = Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
file.write_text(json.dumps({os.environ["UI_USER"]: os.environ["UI_PASSWORD"]}))
PYTHON
unset UI_PASSWORD
exec airflow api-server
