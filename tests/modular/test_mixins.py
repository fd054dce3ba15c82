# SPDX-License-Identifier: Apache-2.0
"""What diffusers promises of every modular pipeline, under the names that diffusers' own tests have."""

import json

import pytest
import torch
from diffusers import ClassifierFreeGuidance, ModularPipeline
from torch import nn

from diffusers_show1 import Show1Blocks, Show1ModularPipeline

from ..contract.components import pipeline, seeded
from ..golden.cases import max_difference


PROMPTS = ["a cat", "a dog on a horse"]


class ModularPipelineTesterMixin:
    """A concrete class names the pipeline and its blocks, and gives a cascade whose folder serves as it is."""

    pipeline_class: type[ModularPipeline]
    blocks_class: type
    network_names: tuple[str, ...]
    output_shape: tuple[int, ...]  # of one video: (frames, channels, height, width)

    def get_cascade(self):
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory):
        """A cascade's folder."""
        folder = tmp_path_factory.mktemp("cascade")
        cls().get_cascade().save_pretrained(folder)
        return str(folder)

    @pytest.fixture(scope="class")
    @classmethod
    def pipe(cls, folder):
        return cls().get_pipeline(folder)

    def get_pipeline(self, folder, kind=None, **kwargs):
        pipe = (kind or self.pipeline_class).from_pretrained(folder)
        assert type(pipe) is self.pipeline_class
        pipe.load_components(**{"dtype": torch.float32, **kwargs})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe, **changes):
        call = {"prompt": PROMPTS[0], "generator": seeded(), "output_type": "pt", "output": "videos", **changes}
        return pipe(**call)

    def test_pipeline_call_signature(self, pipe):
        """The names of inputs that every call of ours takes."""
        names = set(pipe.blocks.input_names)
        assert {"prompt", "negative_prompt", "num_videos_per_prompt", "generator", "output_type"} <= names
        assert {"recipe", "stage_options", "num_frames", "callback_on_step_end"} <= names

    @pytest.mark.parametrize("of_diffusers", [True, False], ids=["ModularPipeline", "own class"])
    def test_load_expected_components_from_pretrained(self, folder, of_diffusers):
        """A cascade's folder is a modular pipeline's: by diffusers' class and by ours."""
        pipe = self.get_pipeline(folder, ModularPipeline if of_diffusers else None)
        assert type(pipe.blocks) is self.blocks_class
        cascade = self.get_cascade()
        there = {name for name, part in cascade.components.items() if part is not None}
        assert there == {name for name in pipe.component_names if getattr(pipe, name) is not None}
        for name in there:
            assert type(getattr(pipe, name)) is type(getattr(cascade, name)), name
        assert pipe.config.stage_defaults == cascade.config.stage_defaults

    @pytest.mark.parametrize("of_diffusers", [True, False], ids=["ModularPipeline", "own class"])
    def test_load_expected_components_from_save_pretrained(self, pipe, tmp_path, of_diffusers):
        """A modular pipeline's own folder."""
        pipe.save_pretrained(str(tmp_path), overwrite_modular_index=True)
        loaded = self.get_pipeline(str(tmp_path), ModularPipeline if of_diffusers else None)
        assert {name: type(part) for name, part in loaded.components.items()} == {
            name: type(part) for name, part in pipe.components.items()
        }

    def test_save_from_pretrained(self, pipe, tmp_path):
        """Saved and loaded: the same video."""
        expected = self.run(pipe)
        pipe.save_pretrained(str(tmp_path), overwrite_modular_index=True)
        assert max_difference(self.run(self.get_pipeline(str(tmp_path), ModularPipeline)), expected) < 1e-3

    def test_modular_index_consistency(self, pipe, tmp_path):
        """The index has every component that is loaded, with the place that it was saved to."""
        pipe.save_pretrained(str(tmp_path), overwrite_modular_index=True)
        index = json.loads((tmp_path / "modular_model_index.json").read_text())
        assert index["_blocks_class_name"] == self.blocks_class.__name__
        assert index["_class_name"] == self.pipeline_class.__name__
        for name in self.network_names:
            library, class_name, spec = index[name]
            kind = type(getattr(pipe, name))
            assert class_name == kind.__name__
            assert library == kind.__module__.partition(".")[0]
            assert spec["pretrained_model_name_or_path"] == str(tmp_path)
            assert spec["subfolder"] == name

    def test_is_the_cascade(self, pipe, folder):
        """The folder's video is that of the cascade, up to how a file's weights lie in memory."""
        cascade = self.get_cascade()
        expected = cascade(PROMPTS[0], generator=seeded(), output_type="pt").frames
        assert expected.shape == (1, *self.output_shape)
        assert max_difference(self.run(pipe), expected) < 1e-3

    def test_inference_batch_consistent(self, pipe):
        assert self.run(pipe, prompt=PROMPTS, num_videos_per_prompt=2).shape == (4, *self.output_shape)

    def test_inference_batch_single_identical(self, pipe):
        """With a list of generators each video of a batch is the one that is made alone."""
        both = self.run(pipe, prompt=PROMPTS, generator=[seeded(1), seeded(2)])
        for i, prompt in enumerate(PROMPTS):
            alone = self.run(pipe, prompt=prompt, generator=[seeded(i + 1)])
            assert max_difference(alone, both[i : i + 1]) < 1e-3
        assert max_difference(both[:1], both[1:]) > 1e-2

    def test_float16_inference(self, folder):
        """All networks in half precision: frames within its rounding, by and large."""
        pipe = self.get_pipeline(folder, dtype=torch.bfloat16)
        assert {getattr(pipe, name).dtype for name in self.network_names} == {torch.bfloat16}
        frames = self.run(pipe)
        assert torch.isfinite(frames).all()
        assert frames.std() > 0.02

    def test_inference_is_not_nan(self, pipe):
        assert torch.isfinite(self.run(pipe)).all()

    def test_to_device(self, pipe):
        """`to` reaches every network; there is one device here."""
        pipe.to("cpu")
        networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
        assert len(networks) >= len(self.network_names)
        assert {p.device.type for network in networks for p in network.parameters()} == {"cpu"}

    def test_workflow_map(self, pipe):
        """Every workflow runs on its own inputs, and names the blocks that it keeps."""
        blocks = self.blocks_class()
        assert blocks.available_workflows == ["text2video", "video2video"]
        whole = {spec.name for spec in blocks.expected_components}
        assert {spec.name for spec in blocks.get_workflow("text2video").expected_components} == whole
        assert {spec.name for spec in blocks.get_workflow("video2video").expected_components} < whole

    def test_guider_cfg(self, folder):
        """A guider of the first stage guides in place of its `guidance_scale`."""
        pipe = self.get_pipeline(folder)
        first = next(name for name in pipe.component_names if name.endswith("_guider"))
        scale = {first.removesuffix("_guider"): {"guidance_scale": 3.0}}
        expected = self.run(pipe, stage_options=scale)
        pipe.update_components(**{first: ClassifierFreeGuidance(guidance_scale=3.0)})
        assert max_difference(self.run(pipe), expected) < 1e-3
        pipe.update_components(**{first: ClassifierFreeGuidance(guidance_scale=1.0)})
        assert max_difference(self.run(pipe), expected) > 1e-3

    def test_one_cascade_behind_all_blocks(self, folder, monkeypatch):
        """It is made once a pipeline, its stages with it, and has what the pipeline has, also later."""
        from diffusers import DiffusionPipeline

        made, before = [], DiffusionPipeline.__init__

        def count(pipe, *args, **kwargs):
            made.append(type(pipe).__name__)
            before(pipe, *args, **kwargs)

        pipe = self.get_pipeline(folder)
        monkeypatch.setattr(DiffusionPipeline, "__init__", count)
        expected = self.run(pipe)
        assert len(made) == 1 + len(self.get_cascade_class().stage_names)
        made.clear()
        assert torch.equal(self.run(pipe), expected)
        assert made == []
        scheduler = next(name for name in pipe.component_names if name.endswith("_scheduler"))
        before_it = getattr(pipe, scheduler)
        other = "sample" if before_it.config.prediction_type == "epsilon" else "epsilon"
        pipe.update_components(**{scheduler: type(before_it).from_config(before_it.config, prediction_type=other)})
        assert max_difference(self.run(pipe), expected) > 1e-3
        assert made == []

    def get_cascade_class(self):
        return type(self.get_cascade())


class TestShow1Modular(ModularPipelineTesterMixin):
    pipeline_class, blocks_class = Show1ModularPipeline, Show1Blocks
    network_names = ("base_unet", "interpolation_unet", "superres_unet", "first_frame_unet", "text_encoder")
    output_shape = (5, 3, 16, 24)

    def get_cascade(self):
        return pipeline("cascade")
