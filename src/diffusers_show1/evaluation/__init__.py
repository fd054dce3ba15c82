# SPDX-License-Identifier: Apache-2.0
"""Evaluation: the scorer of the synthetic world, and the protocol of the tiny cascade."""

from .protocol import (
    Baseline,
    CascadeReport,
    evaluate_first_stage,
    evaluate_stage,
    make_video,
    report_videos,
)
from .scorer import Reading, Score, read_clip, score_clips, score_readings, to_scoring_size


__all__ = [
    "Baseline",
    "CascadeReport",
    "Reading",
    "Score",
    "evaluate_first_stage",
    "evaluate_stage",
    "make_video",
    "read_clip",
    "report_videos",
    "score_clips",
    "score_readings",
    "to_scoring_size",
]
