"""The goals of the figures, in one place: bounds of the ratio that a row shows."""

from __future__ import annotations

from benchmarks.report import Goal

# Their time over ours.
NOTEBOOK_AS_PUBLISHED = Goal(12)
NOTEBOOK_FEATURES_ONCE = Goal(4.5)
SINGLE = Goal(25)
KERAS_LOOP = Goal(1.5)
PCA_SPARK_ML = Goal(12)
PCA_SKLEARN = Goal(0.5)  # at most twice the time of scikit-learn in memory

# Our images a second over the bare loop's, and our CPU seconds over its.
LIMIT_STEADY = Goal(0.97)
LIMIT_WHOLE = Goal(0.9)
LIMIT_CPU = Goal(1.3, at_least=False)

# The largest size's figure over a smaller one's.
GROWTH_TIME = Goal(1.05, at_least=False)
GROWTH_MEMORY = Goal(1.05, at_least=False)

# Absolute differences.
VARIANCE_KEPT = Goal(0.001, at_least=False)
