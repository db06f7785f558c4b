#!/usr/bin/env python
"""Health check of a service: `health.py <URL>`, or `health.py <URL> <component of Airflow's health report>`.

The exit code is 0 if the service is healthy, otherwise 1. It prints one line, which `docker inspect` shows.
"""

import json
import sys
import urllib.request


def main(url: str, component: str = "") -> int:
    try:
        with urllib.request.urlopen(url, timeout=8) as answer:  # noqa: S310 - a URL of docker-compose.yaml
            text = answer.read()
        status = json.loads(text)[component]["status"] if component else "healthy"
    except (OSError, ValueError, KeyError) as error:
        print(f"{url}: {error}")
        return 1
    print(f"{component or url}: {status}")
    return 0 if status == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
