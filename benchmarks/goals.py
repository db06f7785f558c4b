"""The goals of the figures, in one place: bounds of the ratio that a row shows."""

from __future__ import annotations

from benchmarks.report import Goal

# Their time over ours.
NOTEBOOK_AS_PUBLISHED = Goal(3)
NOTEBOOK_FEATURES_ONCE = Goal(1.5)
SINGLE = Goal(4)
KERAS_LOOP = Goal(1.5)
PCA_SPARK_ML = Goal(2)
PCA_SKLEARN = Goal(1)

# Our images a second over the bare loop's, and our CPU seconds over its.
LIMIT_STEADY = Goal(0.9)
LIMIT_WHOLE = Goal(0.8)
LIMIT_CPU = Goal(1.25, at_least=False)

# The largest size's figure over a smaller one's.
GROWTH_TIME = Goal(1.1, at_least=False)
GROWTH_MEMORY = Goal(1.25, at_least=False)

# Absolute differences.
VARIANCE_KEPT = Goal(0.001, at_least=False)
