"""The job code of the two EMR steps: extraction of features and PCA.

Shipped to the cluster with ``--py-files``. Needs numpy, pillow, pyarrow, obstore and
ai-edge-litert on the nodes; never imports Airflow, TensorFlow or boto3.
"""
