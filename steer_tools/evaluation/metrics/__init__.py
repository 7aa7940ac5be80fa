"""Pure figures of texts without a judge, of how sure a mean or a share is, and of what steering did to items.

Numbers come in and numbers go out. It must not know models.
"""

from steer_tools.evaluation.metrics.effects import (
    anti_steerable_share,
    empirical_p,
    paraphrase_share,
    robustness,
    slopes,
)
from steer_tools.evaluation.metrics.intervals import Interval, cluster_interval, cluster_share_interval, share_interval
from steer_tools.evaluation.metrics.roc import roc_interval
from steer_tools.evaluation.metrics.texts import changed_share, distinct_2, perplexity

__all__ = [
    "Interval",
    "anti_steerable_share",
    "changed_share",
    "cluster_interval",
    "cluster_share_interval",
    "distinct_2",
    "empirical_p",
    "paraphrase_share",
    "perplexity",
    "robustness",
    "roc_interval",
    "share_interval",
    "slopes",
]
