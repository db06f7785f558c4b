"""Constants of the estimate, each measured or assumed, with its source."""

from __future__ import annotations

RATE = 101.0
"""Images a CPU second of extract_features.py, over all of its processes. Measured: 10,000 photos of 6 KB in
98.7 CPU seconds with MobileNetV2 1.0, 224 x 224, float32, on an AMD Zen 4 (benchmarks/RESULTS.md, limit)."""

INT8_SPEED = 1.9
"""Speed of int8 as a multiple of float32, with decoding (benchmarks/RESULTS.md, precision)."""

LEAST_PIXELS = 0.5
"""Lower bound of the share of time of a smaller input size, which falls with its pixels: 160 takes half of
the time of 224. Smaller sizes were not measured."""

COMPUTE = {"mobilenet_v2": 1.0, "resnet50": 130 / 12.5}
"""Compute time of a backbone as a multiple of MobileNetV2's. Measured in LiteRT: 130 and 12.5 images a CPU
second."""

DECODE_SECONDS_PER_MB = 0.06
"""CPU seconds to decode and resize one MB of a JPEG file. Measured on the same core: 0.03 to 0.06, for
files of 0.1 to 3.6 MB and quality 75 and 90."""

PCA_ROWS = 13_000.0
"""Rows of 1,280 features a core second in reduce_pca.py, over both passes. Measured: 90,000 more rows
took 2 cores 3.3 s longer (benchmarks/RESULTS.md, pca). The work grows with the square of the width."""

VCPU_SPEEDS = {
    "5": 0.35,
    "5a": 0.20,
    "6i": 0.40,
    "6a": 0.40,
    "6g": 0.30,
    "7i": 0.45,
    "7a": 0.80,
    "7g": 0.45,
    "8g": 0.50,
}
"""Speed of a vCPU as a multiple of the measured core's, by generation and manufacturer. Assumed, from
peak speeds, rounded down; no cluster of these types was measured. On Intel, and on AMD before the
7th generation, a vCPU is a hyperthread, which is half a core. On Graviton it is a core with
narrower vector units: 16 float32 operations a cycle on Graviton2, 32 on Graviton3. Zen 4 also does
32, at a clock rate 1.5 times as high."""

OTHER_VCPU_SPEED = 0.20

START_SECONDS = {"low": 240.0, "expected": 360.0, "high": 600.0}
"""From the request of the cluster until EMR runs steps, without the bootstrap action. Assumed: about 6
minutes."""

BOOTSTRAP_SECONDS = 40.0
"""Of bootstrap/install.sh, which installs 109 MB of wheels from the bucket in less than 40 s."""

STEP_SECONDS = 30.0
"""From the start of a step to its first task: spark-submit, YARN's containers, imports, the model. Measured
without YARN: 4 s (benchmarks/RESULTS.md, stages)."""

PCA_SECONDS = 15.0
"""Of the PCA's driver: decomposition, model.npz, embed.tflite. Measured: 3 s on the measured core."""

END_SECONDS = 60.0
"""From the request to terminate until the instances are gone."""

SPEED_FACTORS = {"low": 1.5, "expected": 1.0, "high": 0.5}
"""Speed of vCPUs in each case, as a multiple of VCPU_SPEEDS."""

ROOT_GB = 15
"""GB of each node's root volume, EMR's default:
https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-custom-ami-root-volume-size.html"""

HOURS_A_MONTH = 730

LEAST_BILLED_SECONDS = 60.0
"""EC2 and EMR bill by the second, with a minimum of one minute."""

SMALL_IMAGE_BYTES = 6_000
"""Bytes of an image with which RATE was measured; assumed where the real size is not known."""
