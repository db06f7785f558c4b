"""The constants of the estimate: each measured, or assumed, with its source."""

from __future__ import annotations

RATE = 101.0
"""Images a CPU second of extract_features.py, all of its processes counted: 10,000 photos of 6 KB in
98.7 s with MobileNetV2 1.0, 224 x 224, float32, on an AMD Zen 4 (benchmarks/RESULTS.md, limit)."""

INT8_SPEED = 1.9
"""int8 over float32, decoding included (benchmarks/RESULTS.md, precision)."""

LEAST_PIXELS = 0.5
"""Time of a smaller input size falls with its pixels: 160 takes half of 224's. Below is not measured."""

COMPUTE = {"mobilenet_v2": 1.0, "resnet50": 130 / 12.5}
"""Compute of a backbone over MobileNetV2's: images a CPU second of LiteRT, 130 and 12.5."""

DECODE_SECONDS_PER_MB = 0.06
"""CPU seconds that decoding and resizing a JPEG file take for each MB of it: 0.03 to 0.06 were measured
on the same core, of 0.1 to 3.6 MB and quality 75 and 90."""

PCA_ROWS = 13_000.0
"""Rows of 1,280 features a second of one core that reduce_pca.py does, both passes: 90,000 more rows took
2 cores 3.3 s longer (benchmarks/RESULTS.md, pca). The work grows with the square of the width."""

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
"""Speed of a vCPU over the measured core's, by generation and maker. On Intel's and on AMD's before
the 7th generation a vCPU is a hyperthread, half a core; Graviton's is a core with narrower vector
units (16 float32 operations a cycle on Graviton2 and 32 on Graviton3, as on Zen 4, which runs at half
as many cycles again). From such peaks, rounded down; no cluster of them was measured."""

OTHER_VCPU_SPEED = 0.20

START_SECONDS = {"low": 240.0, "expected": 360.0, "high": 600.0}
"""From the request until EMR runs steps, without the bootstrap action: about 6 minutes."""

BOOTSTRAP_SECONDS = 40.0
"""bootstrap/install.sh: under 40 s, 109 MB of wheels from the bucket."""

STEP_SECONDS = 30.0
"""From a step's start to its first task: spark-submit, YARN's containers, imports, the model. 4 s without
YARN (benchmarks/RESULTS.md, stages)."""

PCA_SECONDS = 15.0
"""Of the PCA's driver: decomposition, model.npz, embed.tflite. 3 s on the measured core."""

END_SECONDS = 60.0
"""From the request to terminate until the instances are gone."""

SPEED_FACTORS = {"low": 1.5, "expected": 1.0, "high": 0.5}
"""The cases' vCPUs over VCPU_SPEEDS."""

ROOT_GB = 15
"""Each node's root volume, EMR's default:
https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-custom-ami-root-volume-size.html"""

HOURS_A_MONTH = 730

LEAST_BILLED_SECONDS = 60.0
"""EC2 and EMR bill by the second, a minute at least."""

SMALL_IMAGE_BYTES = 6_000
"""Of an image of RATE; assumed where the real size is not known."""
