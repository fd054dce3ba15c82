# SPDX-License-Identifier: Apache-2.0
"""Evaluation: the scorer of the synthetic world, pixel metrics, and the protocol of the tiny cascade."""

from .metrics import mse, psnr
from .protocol import Baseline, evaluate_interpolation, evaluate_keyframes, evaluate_refinement, evaluate_superres
from .scorer import Reading, Score, read_clip, score_clips, score_readings, to_scoring_size


__all__ = [
    "Baseline",
    "Reading",
    "Score",
    "evaluate_interpolation",
    "evaluate_keyframes",
    "evaluate_refinement",
    "evaluate_superres",
    "mse",
    "psnr",
    "read_clip",
    "score_clips",
    "score_readings",
    "to_scoring_size",
]
