# SPDX-License-Identifier: Apache-2.0
"""Evaluation: the scorer and the measure of form of the synthetic world, and the protocol of the tiny cascade."""

from .form import Form, forms_by_shape, mean_form, measure_form
from .protocol import (
    Baseline,
    CascadeReport,
    Video,
    evaluate_first_stage,
    evaluate_form,
    evaluate_stage,
    make_video,
    report_videos,
    true_form,
)
from .scorer import Reading, Score, read_clip, score_clips, score_readings, to_scoring_size


__all__ = [
    "Baseline",
    "CascadeReport",
    "Form",
    "Reading",
    "Score",
    "Video",
    "evaluate_first_stage",
    "evaluate_form",
    "evaluate_stage",
    "forms_by_shape",
    "make_video",
    "mean_form",
    "measure_form",
    "read_clip",
    "report_videos",
    "score_clips",
    "score_readings",
    "to_scoring_size",
    "true_form",
]
