"""What the DAGs call: plain Python that a test can call without Airflow.

Modules that need heavy packages import them where they are used, so that a DAG file parses fast.
"""
