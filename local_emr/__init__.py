"""An AWS for one machine: moto's services, and an EMR whose clusters live and whose steps run.

Start it with ``python -m local_emr``; README.md says what is like AWS and what is not.
"""
