"""The report of a run: one HTML file that shows what the run made, and works offline.

| module | what |
|---|---|
| `rows` | some rows of features and embeddings, drawn by the run's seed |
| `quality` | nearest neighbours without near duplicates, silhouette, confusions |
| `maps` | images as points of a plane |
| `pictures` | the images themselves, small, in sprite sheets |
| `rejected` | images without features |
| `charts` | geometry of the charts |
| `build` | the page from all of these |
"""
