"""Export a Keras backbone once to LiteRT, checked against Keras, and cache it.

    python -m fruit_pipeline backbone --backbone mobilenet_v2 --weights imagenet --output /tmp/run/model
    python -m fruit_pipeline backbone --weights ~/mobilenetv2.weights.h5 --output s3://bucket/models
    python -m fruit_pipeline backbone --input-size 160 --precision int8 --sample /tmp/run/sample       --output /tmp/run/model

The features are the global average pooling of the last convolution (1,280 for MobileNetV2, 2,048
for ResNet50). Weights are "imagenet" (Keras downloads them), a Keras weights file, or
"random:<seed>" for trying things out. With int8 the model is quantised on images of the sample.
"""

from __future__ import annotations

from typing import Any

from fruit_pipeline.model.backbones import BACKBONES, DEFAULT_INPUT_SIZE, INPUT_SIZES, BackboneRequest
from fruit_pipeline.model.export import export, publish
from image_features.errors import JobError
from image_features.storage import Storage


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline import settings
    from fruit_pipeline.commands import cli as commands_cli
    from fruit_pipeline.model import backbones, quantise
    from image_features import cli

    parser = cli.parser(__doc__)
    parser.add_argument("--backbone", default="mobilenet_v2", choices=sorted(BACKBONES))
    parser.add_argument("--alpha", type=float, default=1.0, help="width multiplier (default: %(default)s)")
    parser.add_argument("--weights", default="imagenet", help="imagenet, a file, or random:<seed>")
    parser.add_argument(
        "--input-size",
        type=int,
        default=DEFAULT_INPUT_SIZE,
        metavar="PIXELS",
        help=f"{', '.join(map(str, INPUT_SIZES))} (default: %(default)s)",
    )
    parser.add_argument("--precision", default="float32", choices=backbones.PRECISIONS)
    parser.add_argument("--sample", metavar="URI", help="for int8: the sample to calibrate on")
    parser.add_argument(
        "--min-cosine",
        type=float,
        default=backbones.DEFAULT_MIN_COSINE,
        help="for int8: least mean cosine of its features to those of float32 (default: %(default)s)",
    )
    parser.add_argument("--output", required=True, metavar="URI", help="the model goes to <output>/<digest>")
    args = parser.parse_args(argv)

    def run() -> dict[str, Any]:
        from dataclasses import asdict

        request = BackboneRequest(args.backbone, args.alpha, args.weights, args.input_size)
        cache_dir = settings.load().cache_dir
        backbones.check_precision(args.precision, request)
        if args.precision == "int8":
            if not args.sample:
                raise JobError("int8 is calibrated on images: say with --sample which")
            spec, cached = quantise.quantise(request, Storage(args.sample), cache_dir, args.min_cosine)
        else:
            spec, cached = export(request, cache_dir)
        return {"uri": publish(spec, cached, Storage(args.output, create=True)), **asdict(spec)}

    return commands_cli.run(run, args)
