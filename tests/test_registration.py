# SPDX-License-Identifier: Apache-2.0
"""How diffusers comes to know this package, in fresh interpreters: import order, published indexes, light import."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

import diffusers_show1
from diffusers_show1 import families
from diffusers_show1.ladder.family import Family, Repository

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
    "WindowStore",
    "__version__",
    "detect_watermark",
    "embed_watermark",
    "read_fps",
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


OTHER = """
# A family in a package of its own, as small as can be: a network, a stage, and a cascade of it.
import torch
from diffusers import ConfigMixin, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config

class OtherNet(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, width: int = 2):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)

class OtherStagePipeline(DiffusionPipeline):
    def __init__(self, unet: OtherNet):
        super().__init__()
        self.register_modules(unet=unet)

class OtherCascadePipeline(DiffusionPipeline):
    def __init__(self, first_unet: OtherNet):
        super().__init__()
        self.register_modules(first_unet=first_unet)
"""


@pytest.mark.parametrize("first", ["diffusers_show1", "diffusers"])
def test_a_family_of_another_package(tmp_path, first):
    """Added whenever it is, it loads as ours do: saved, published, by the generic loader and on its own."""
    package = tmp_path / "other"
    package.mkdir()
    (package / "classes.py").write_text(OTHER)
    (package / "__init__.py").write_text(
        "from diffusers_show1 import families\nfrom diffusers_show1.ladder.family import Family, Repository\n"
        "FAMILY = Family(name='other', title='Other', package='other', library='other',"
        " cascade='OtherCascadePipeline', networks=('OtherNet',), stages={'first': 'OtherStagePipeline'},"
        " exports=dict.fromkeys(['OtherNet', 'OtherStagePipeline', 'OtherCascadePipeline'], 'classes'),"
        " published={'first': Repository('somebody/other', 'PublishedOtherPipeline')},"
        " published_network=('othercode.nets', 'Net'))\n"
        "families.add(FAMILY)\nfamilies.add(FAMILY)\n"
    )
    order = {
        "diffusers_show1": "import other\nfrom diffusers import AutoModel, DiffusionPipeline",
        "diffusers": "from diffusers import AutoModel, DiffusionPipeline\nimport diffusers_show1, other",
    }
    result = run(
        f"import sys, json, pathlib\nsys.path.insert(0, {str(tmp_path)!r})\n{order[first]}\n"
        "light = 'other.classes' not in sys.modules\n"
        "from diffusers_show1.hub.recognise import recognise\n"
        "from other.classes import OtherNet, OtherStagePipeline\n"
        f"folder = pathlib.Path({str(tmp_path / 'saved')!r})\n"
        "OtherStagePipeline(OtherNet(3)).save_pretrained(folder)\n"
        "index = json.loads((folder / 'model_index.json').read_text())\n"
        "pipe = DiffusionPipeline.from_pretrained(folder)\n"
        "net = AutoModel.from_pretrained(str(folder), subfolder='unet')\n"
        "saved = str(recognise(folder))\n"
        "index |= {'_class_name': 'PublishedOtherPipeline', 'unet': ['othercode.nets', 'Net']}\n"
        "(folder / 'model_index.json').write_text(json.dumps(index))\n"
        "again = DiffusionPipeline.from_pretrained(folder)\n"
        "result = [light, type(pipe).__name__, type(net).__name__, saved, type(again).__name__,"
        " again.unet.config.width, str(recognise(folder))]"
    )
    saved, published = "the first stage of a Other cascade", "the first stage of Other as it was published"
    assert result == [True, "OtherStagePipeline", "OtherNet", saved, "OtherStagePipeline", 3, published]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "show1"},
        {"exports": {"Show1UNet3DConditionModel": "classes"}},
        {"short_names": {"tiny": None}},
        {"published": {"first": Repository("a/b", "TextToVideoIFPipeline")}},
    ],
)
def test_a_family_cannot_take_a_name(changes):
    """Names mean one thing: nobody's weights come to be read as another family's."""
    own = Family(
        name="other", title="Other", package="other", cascade="C", exports={}, networks=(), stages={"first": "Stage"}
    )
    before = families.all_families()
    with pytest.raises(ValueError, match="`family` must have names of its own, got .*, which is show1's"):
        families.add(dataclasses.replace(own, **changes))
    assert families.all_families() == before


def test_modular_pipelines_from_a_cascades_repository():
    """Both the generic class and ours find the blocks; a stage's repository has none."""
    result = run(
        "import diffusers_show1\nfrom diffusers import ModularPipeline\n"
        "from diffusers_show1 import Show1CascadePipeline, Show1ModularPipeline, TINY_PATH\nresult = []\n"
        "for cls in (ModularPipeline, Show1ModularPipeline):\n"
        "    pipe = cls.from_pretrained(TINY_PATH)\n"
        "    pipe.load_components()\n"
        "    specs = pipe._component_specs.values()\n"
        "    pretrained = [spec.name for spec in specs if spec.pretrained_model_name_or_path]\n"
        "    result.append([type(pipe).__name__, type(pipe.blocks).__name__, sorted(pretrained)])\n"
        "    result.append(sorted(name for name, part in pipe.components.items() if part is not None))\n"
        "whole = Show1CascadePipeline.from_pretrained(TINY_PATH)\n"
        "result.append(sorted(name for name, part in whole.components.items() if part is not None))"
    )
    parts = result[-1]
    assert result[:4] == 2 * [["Show1ModularPipeline", "Show1Blocks", parts], parts]
