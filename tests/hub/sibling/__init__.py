# SPDX-License-Identifier: Apache-2.0
"""A family outside of the package: two networks, one of which two rungs share, and stages that inherit ours."""

from diffusers_show1.ladder.family import Family


FAMILY = Family(
    name="sibling",
    title="A Sibling",
    package=__name__,
    library=__name__,
    cascade="SiblingCascadePipeline",
    exports={
        "SiblingUNet": "networks",
        "SiblingInterpolator": "networks",
        "SiblingKeyframePipeline": "stages",
        "SiblingInterpolationPipeline": "stages",
        "SiblingCascadePipeline": "cascade",
    },
    networks=("SiblingUNet", "SiblingInterpolator"),
    stages={
        "first": "SiblingKeyframePipeline",
        "second": "SiblingInterpolationPipeline",
        "third": "SiblingInterpolationPipeline",
    },
    bundles={
        "SiblingUNet": "unet_sibling",
        "SiblingInterpolator": "interpolator_sibling",
        "SiblingKeyframePipeline": "pipeline_sibling_first",
        "SiblingInterpolationPipeline": "pipeline_sibling_interpolation",
        "SiblingCascadePipeline": "pipeline_sibling",
    },
    components={
        "scheduler": "diffusers.DDIMScheduler",
        "SiblingInterpolationPipeline.unet": "SiblingInterpolator",
        "between_unet": "SiblingInterpolator",
    },
)
