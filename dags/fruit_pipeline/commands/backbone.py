"""Export a Keras backbone to LiteRT, check it against Keras, and cache it.

    python -m fruit_pipeline backbone --backbone mobilenet_v2 --weights imagenet --output /tmp/models
    python -m fruit_pipeline backbone --weights ~/mobilenetv2.weights.h5 --output s3://bucket/models
    python -m fruit_pipeline backbone --input-size 160 --precision int8 --sample /tmp/run/sample \
      --output /tmp/models

The features are the global average pooling of the last convolution: 1,280 values for MobileNetV2,
2,048 for ResNet50. Weights are "imagenet" (Keras downloads them), a Keras weights file, or
"random:<seed>" for trials. An int8 model is calibrated on images of the sample.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from fruit_pipeline import settings
from fruit_pipeline.commands.options import add_options
from fruit_pipeline.model import quantise
from fruit_pipeline.model.backbones import DEFAULT_MIN_COSINE, BackboneRequest, check_precision
from fruit_pipeline.model.export import export, publish
from image_features.arguments import Parser
from image_features.errors import JobError
from image_features.storage import Storage


def add_arguments(parser: Parser) -> None:
    add_options(parser, "--backbone", "--alpha")
    add_options(parser, "--weights", default="imagenet")
    add_options(parser, "--input-size", "--precision")
    parser.add_argument("--sample", metavar="URI", help="for int8: the sample to calibrate on")
    parser.add_argument(
        "--min-cosine",
        type=float,
        default=DEFAULT_MIN_COSINE,
        metavar="COSINE",
        help="for int8: lowest mean cosine of its features to those of float32 (default: %(default)s)",
    )
    add_options(parser, "--output", help="the model goes to <output>/<digest>")


def run(args: argparse.Namespace) -> dict[str, Any]:
    request = BackboneRequest(args.backbone, args.alpha, args.weights, args.input_size)
    check_precision(args.precision, request)
    cache_dir = settings.load().cache_dir
    if args.precision == "int8":
        if not args.sample:
            raise JobError("int8 is calibrated on images; give their sample by --sample")
        spec, cached = quantise.quantise(request, Storage(args.sample), cache_dir, args.min_cosine)
    else:
        spec, cached = export(request, cache_dir)
    return {"uri": publish(spec, cached, Storage(args.output, create=True)), **asdict(spec)}
