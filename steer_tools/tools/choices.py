"""The names that arguments may have, and what descriptions say of them, for whoever does without torch.

Written by `make generate` from ENGINES, METHODS, SESSION_METHODS and INTERVENTIONS.
"""

from typing import Literal

EngineName = Literal["huggingface"]
MethodName = Literal[
    "mean_difference",
    "paired_mean_difference",
    "act_add",
    "pca",
    "lat",
    "lda",
    "logistic",
    "sae_feature",
    "trained",
    "random",
    "random_covariance",
    "balanced_shuffle",
]
InterventionName = Literal[
    "add",
    "add_keeping_norm",
    "project_out",
    "affine",
    "clamp",
    "rotate",
    "replace",
    "zero",
    "mean",
    "erase",
]
PAIRED_METHODS = "paired_mean_difference, act_add, pca and trained"
CONTROL_METHODS = "random, random_covariance and balanced_shuffle"
SCALING_INTERVENTIONS = "add and add_keeping_norm"
