"""The report of a run: one HTML file that shows the results of the run, and works offline.

| module | what |
|---|---|
| `rows` | a random sample of the rows of features and embeddings |
| `quality` | nearest neighbours without near duplicates, silhouette, confusions |
| `maps` | images as points of a plane |
| `pictures` | the images themselves, small, in sprite sheets |
| `rejected` | images without features, and why |
| `views` | what the page shows of neighbours: a gallery, confusions, labels |
| `charts` | geometry of the charts |
| `page` | the page, rendered |
| `build` | reads the run, and calls all of these |
"""
