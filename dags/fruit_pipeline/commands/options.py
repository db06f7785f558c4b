"""Options that several commands share, each defined once."""

from __future__ import annotations

import argparse
from typing import Any

from fruit_pipeline.model.backbones import BACKBONES, DEFAULT_INPUT_SIZE, INPUT_SIZES, PRECISIONS
from image_features.arguments import Parser, at_least_one, share

_DEFAULT = "default: %(default)s"

OPTIONS: dict[str, dict[str, Any]] = {
    "--run": {"required": True, "metavar": "URI", "help": "s3://<bucket>/runs/<run key>, or a folder"},
    "--output": {"required": True, "metavar": "URI"},
    "--region": {"help": "default: FRUITS_REGION"},
    "--shape": {"default": "small", "metavar": "NAME", "help": f"file in emr_configs ({_DEFAULT})"},
    "--no-pack": {"action": "store_true", "help": "copy no image: the workers read the s3:// source itself"},
    "--backbone": {"default": "mobilenet_v2", "choices": sorted(BACKBONES), "help": _DEFAULT},
    "--alpha": {"type": float, "default": 1.0, "help": f"width multiplier ({_DEFAULT})"},
    "--weights": {"help": f"imagenet, a Keras weights file without top, or random:<seed> ({_DEFAULT})"},
    "--input-size": {
        "type": int,
        "default": DEFAULT_INPUT_SIZE,
        "metavar": "PIXELS",
        "help": f"one of {', '.join(map(str, INPUT_SIZES))} ({_DEFAULT})",
    },
    "--precision": {
        "default": "float32",
        "choices": PRECISIONS,
        "help": f"int8 is about twice as fast and less exact ({_DEFAULT})",
    },
}


def add_options(parser: Parser, *names: str, **changes: Any) -> None:
    """Add shared options; ``changes`` are keywords of ``add_argument`` that differ from the usual ones."""
    for name in names:
        parser.add_argument(name, **{**OPTIONS[name], **changes})


def add_components(parser: argparse.ArgumentParser, default: int | None = None) -> None:
    """Add ``--components`` and ``--variance``; one of them must be given unless there is a default."""
    size = parser.add_mutually_exclusive_group(required=default is None)
    size.add_argument(
        "--components",
        type=at_least_one,
        default=default,
        metavar="N",
        help="components to keep" + (f" ({_DEFAULT})" if default else ""),
    )
    size.add_argument("--variance", type=share, metavar="SHARE", help="share of variance to keep, 0.9 say")
