# SPDX-License-Identifier: Apache-2.0
"""How diffusers comes to know this package, in fresh interpreters: import order, published indexes, light import."""

import json
import os
import subprocess
import sys

import pytest

import diffusers_show1

from .golden import cases


PUBLIC = [
    "TINY_PATH",
    "DeepCacheConfig",
    "GenerationJob",
    "JobSettings",
    "KnownFrames",
    "Show1Blocks",
    "Show1CascadePipeline",
    "Show1InterpolationPipeline",
    "Show1KeyframePipeline",
    "Show1ModularPipeline",
    "Show1RefinementPipeline",
    "Show1SuperResolutionPipeline",
    "Show1UNet3DConditionModel",
    "VideoPipelineOutput",
    "__version__",
    "detect_watermark",
    "embed_watermark",
    "read_metadata",
    "read_video",
    "save_video",
]


def run(code: str) -> dict:
    """Runs `code`, which sets `result`, in an interpreter of its own, cut off from the Hub."""
    paths = [p for p in sys.path if p]
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json; print('\\n' + json.dumps(result))"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


ORDERS = {
    "first": "import diffusers_show1\nfrom diffusers import DiffusionPipeline, AutoModel",
    "after diffusers": "import diffusers\nimport diffusers_show1\nfrom diffusers import DiffusionPipeline, AutoModel",
    "after its pipelines": "from diffusers import DiffusionPipeline, AutoModel\nimport diffusers_show1",
}
LOAD = f"""
import torch, tempfile, pathlib
models, found = pathlib.Path({str(cases.MODELS)!r}), {{}}
for name, options in {{
    "show-1-base": {{"variant": "fp16"}},
    "show-1-interpolation": {{"variant": "fp16"}},
    "show-1-sr1": {{}},
}}.items():
    pipe = DiffusionPipeline.from_pretrained(models / name, dtype=torch.float32, **options)
    with tempfile.TemporaryDirectory() as folder:
        pipe.save_pretrained(folder)
        index = json.loads((pathlib.Path(folder) / "model_index.json").read_text())
        again = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
        unet = AutoModel.from_pretrained(folder, subfolder="unet")
    found[name] = [type(pipe).__name__, type(again).__name__, type(unet).__name__, index["_class_name"], index["unet"]]
result = found
"""


@pytest.mark.parametrize("order", ORDERS)
def test_published_folders_load(order):
    """The generic loader reads the published indexes in any import order; saved again they name this package."""
    names = {
        "show-1-base": "Show1KeyframePipeline",
        "show-1-interpolation": "Show1InterpolationPipeline",
        "show-1-sr1": "Show1SuperResolutionPipeline",
    }
    unet = "Show1UNet3DConditionModel"
    assert run(f"import json\n{ORDERS[order]}{LOAD}") == {
        folder: [name, name, unet, name, ["diffusers_show1", unet]] for folder, name in names.items()
    }


def test_diffusers_keeps_its_own_names():
    """Names that diffusers has mean what they meant, and unknown ones are still unknown."""
    result = run(
        "import diffusers_show1, diffusers, diffusers.pipelines\n"
        "from diffusers import DiffusionPipeline, UNet3DConditionModel\n"
        "result = [UNet3DConditionModel.__module__, diffusers.VideoToVideoSDPipeline.__name__,"
        " hasattr(diffusers, 'NoSuchPipeline'), hasattr(diffusers.pipelines, 'nonesuch'),"
        " diffusers.__name__, len(dir(diffusers)) > 500,"
        " diffusers.TextToVideoIFPipeline is diffusers_show1.Show1KeyframePipeline]"
    )
    assert result == [
        "diffusers.models.unets.unet_3d_condition",
        "VideoToVideoSDPipeline",
        False,
        False,
        "diffusers",
        True,
        True,
    ]


def test_the_refinement_repository_loads_as_ours_when_asked():
    """The fourth repository names a stock pipeline: the generic loader gives that, our class gives ours."""
    result = run(
        "import torch, diffusers_show1\nfrom diffusers import DiffusionPipeline\n"
        f"folder = {str(cases.MODELS / 'show-1-sr2')!r}\n"
        "stock = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)\n"
        "ours = diffusers_show1.Show1RefinementPipeline.from_pretrained(folder, dtype=torch.float32)\n"
        "result = [type(stock).__name__, type(ours).__name__]"
    )
    assert result == ["VideoToVideoSDPipeline", "Show1RefinementPipeline"]


def test_import_is_light():
    """`import diffusers_show1` imports none of the large libraries."""
    heavy = ["torch", "diffusers", "transformers", "numpy", "PIL", "accelerate", "av"]
    assert run(f"import sys, diffusers_show1\nresult = [m for m in {heavy} if m in sys.modules]") == []


def test_registering_twice_changes_nothing():
    result = run(
        "import diffusers_show1\nfrom diffusers_show1.hub import registration\nimport diffusers, diffusers.pipelines\n"
        "from diffusers import DiffusionPipeline\nbefore = type(diffusers), diffusers.TextToVideoIFPipeline\n"
        "registration.register(); registration.register(); registration.install()\n"
        "result = before == (type(diffusers), diffusers.TextToVideoIFPipeline)"
    )
    assert result is True


def test_public_names():
    """The front door is frozen: a name more or less is a decision."""
    assert diffusers_show1.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(diffusers_show1, name) is not None
        assert name in dir(diffusers_show1)
    with pytest.raises(AttributeError, match="nonesuch"):
        diffusers_show1.nonesuch  # noqa: B018
