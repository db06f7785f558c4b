"""The images of a run that are nearest to a photo.

    python examples/find_neighbours.py --run demo-output/<run> --image photo.jpg --neighbours 5

The run's own embed.tflite computes the photo's embedding; the distances are Euclidean.
It needs the packages of a cluster node (bootstrap/requirements-node.txt), no TensorFlow and no Spark.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# With the node packages alone, the job code is not installed: it is in the folder beside this one.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "spark_jobs"))

from image_features import cli
from image_features.arguments import at_least_one
from image_features.contract import EMBEDDINGS_SCHEMA, PcaMarker, RunLayout, shard_key
from image_features.documents import read_document
from image_features.embedder import open_embedder
from image_features.errors import JobError
from image_features.images import RejectedImage, decode_rgb
from image_features.shards import read_shard
from image_features.storage import Storage


@dataclass(frozen=True)
class Neighbour:
    """An image of the run, and the distance of its embedding from the photo's."""

    image: str
    label: str
    distance: float


def find(run: str, photo: Path, neighbours: int) -> list[Neighbour]:
    """The ``neighbours`` images of a run nearest to ``photo``, nearest first.

    Raises JobError if the run has no finished PCA or no embed.tflite, or if the photo cannot be read.
    """
    pca = Storage(RunLayout(run).pca)
    marker = read_document(PcaMarker, pca)
    embedder = open_embedder(pca, marker)
    try:
        query = embedder.embed(decode_rgb(photo.read_bytes(), embedder.size))
    except (OSError, RejectedImage) as error:
        raise JobError(f"the photo {photo} cannot be read: {error}") from error

    nearest: list[Neighbour] = []
    for shard in marker.shards:
        table = read_shard(pca, shard_key(shard.shard), EMBEDDINGS_SCHEMA)
        embeddings = table.column("embedding").combine_chunks().flatten().to_numpy()
        distances = np.linalg.norm(embeddings.reshape(-1, marker.components) - query, axis=1)
        for row in np.argsort(distances)[:neighbours]:
            image, label = (table.column(name)[int(row)].as_py() for name in ("image", "label"))
            nearest.append(Neighbour(image, label, float(distances[row])))
    return sorted(nearest, key=lambda neighbour: neighbour.distance)[:neighbours]


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--run", required=True, metavar="URI", help="a run: its folder, or s3://...")
    parser.add_argument("--image", required=True, type=Path, metavar="FILE", help="the photo")
    parser.add_argument(
        "--neighbours", type=at_least_one, default=5, metavar="N", help="default: %(default)s"
    )
    args = parser.parse_args(argv)

    def show(neighbours: list[Neighbour]) -> None:
        for neighbour in neighbours:
            print(f"{neighbour.distance:10.4g}  {neighbour.label:24}  {neighbour.image}")

    return cli.main(lambda: find(args.run, args.image, args.neighbours), args, show)


if __name__ == "__main__":
    sys.exit(main())
