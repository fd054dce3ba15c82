# SPDX-License-Identifier: Apache-2.0
"""Rungs and the cascade made of them, on the toy: a latent rung before pixel rungs, one network under two of them."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from diffusers_show1.ladder.cascade import CascadePipeline
from diffusers_show1.ladder.rung import Recipe, Rung
from diffusers_show1.sampling.call import LATENTS, PIXELS, Handover
from diffusers_show1.sampling.windows import WindowStore

from ..contract.components import Calls, seeded
from ..golden.cases import max_difference
from ..toy.between import ToyBetweenPipeline
from ..toy.cascade import ToyCascadePipeline
from ..toy.frames import ToyFramesPipeline
from ..toy.make import SMALL_RUN, pipeline


PROMPTS = ["a red circle", "a blue square moving"]


def run(pipe, **changes):
    return pipe(**{"prompt": PROMPTS[0], "generator": seeded(), "output_type": "pt", **changes})


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


@pytest.fixture(scope="module")
def expected(pipe):
    return run(pipe).frames


# --- what is read off the rungs --------------------------------------------------------------------------------------


def test_parts_of_a_rung():
    """Components have the rung's name in front, unless they are shared or called otherwise."""
    frames, between, between2, _ = ToyCascadePipeline.rungs
    assert frames.parts == {
        "tokenizer": "tokenizer",
        "text_encoder": "text_encoder",
        "unet": "frames_unet",
        "vae": "frames_vae",
        "scheduler": "frames_scheduler",
        "feature_extractor": "feature_extractor",
        "safety_checker": "safety_checker",
    }
    assert between.parts == between2.parts
    assert between2.network == "between_unet"
    assert between2.reader == ""
    assert "window_size" in ToyCascadePipeline.rungs[-1].options
    assert not {"prompt", "frames", "generator", "output_type"} & set(frames.options)
    assert between.defaults["num_inference_steps"] == 8


def test_what_the_cascade_has_of_them():
    assert ToyCascadePipeline.stage_names == ("frames", "between", "between2", "upscale")
    assert ToyCascadePipeline.readers == ("",)
    assert ToyCascadePipeline._lora_networks == ["frames_unet", "between_unet", "upscale_unet"]
    assert ToyCascadePipeline.model_cpu_offload_seq == (
        "text_encoder->frames_unet->frames_vae->between_unet->upscale_unet->safety_checker"
    )
    assert ToyCascadePipeline.low_memory_options["frames"] == {"split_guidance": True, "vae_batch_size": 1}


def test_rungs_must_fit():
    """Names are their own, and each takes what the one before gives."""
    with pytest.raises(ValueError, match=r"`rungs` must have names of their own, got \['a', 'a'\]"):
        type("Twice", (CascadePipeline,), {"rungs": (Rung("a", ToyFramesPipeline), Rung("a", ToyBetweenPipeline))})
    with pytest.raises(ValueError, match="`rungs`: 'b' takes no frames, and 'a' gives latents"):
        type("Blind", (CascadePipeline,), {"rungs": (Rung("a", ToyFramesPipeline), Rung("b", ToyFramesPipeline))})
    wants = type("WantsLatents", (ToyBetweenPipeline,), {"takes": (LATENTS,)})
    with pytest.raises(ValueError, match="`rungs`: 'b' takes latents, and 'a' gives pixels"):
        type("Wrong", (CascadePipeline,), {"rungs": (Rung("a", ToyBetweenPipeline), Rung("b", wants))})
    type("Right", (CascadePipeline,), {"rungs": (Rung("a", ToyFramesPipeline), Rung("b", wants))})


def test_num_frames_walks_back_over_two_interpolations(pipe):
    """The first stage makes as many as it takes; what is too many is left out on the way."""
    assert pipe.frames_wanted(pipe.resolve_options(), 9) == {"frames": 3, "between": 5, "between2": 9, "upscale": 9}
    assert pipe.frames_wanted(pipe.resolve_options(), 6) == {"frames": 3, "between": 4, "between2": 6, "upscale": 6}
    assert pipe.frames_wanted(pipe.resolve_options(), 1) == {"frames": 2, "between": 2, "between2": 1, "upscale": 1}
    for count in (1, 4, 6, 9):
        output = run(pipe, num_frames=count, return_stages=True)
        assert output.frames.shape[1] == count
        assert {name: video.shape[1] for name, video in output.stages.items()} == pipe.frames_wanted(
            pipe.resolve_options(), count
        )


def test_network_calls_are_those_that_are_made(pipe):
    """The count is off by nothing: guided steps are two calls, in one batch or not."""
    options = pipe.resolve_options(stage_options={"frames": {"split_guidance": True}})
    wanted = pipe.network_calls(options)
    assert wanted == {"frames": 4, "between": 2, "between2": 1, "upscale": 4}
    with Calls(pipe.frames_unet) as frames, Calls(pipe.between_unet) as between, Calls(pipe.upscale_unet) as upscale:
        run(pipe, stage_options={"frames": {"split_guidance": True}})
    assert (len(frames), len(between), len(upscale)) == (4, 3, 4)


# --- one network under two rungs -------------------------------------------------------------------------------------


def test_a_shared_network_is_saved_once_and_loaded_once(pipe, expected, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert [name for name in index if name.startswith("between")] == ["between_scheduler", "between_unet"]
    assert not list(tmp_path.glob("between2*"))
    loaded = ToyCascadePipeline.from_pretrained(tmp_path, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.between.unet is loaded.between2.unet is loaded.between_unet
    assert max_difference(run(loaded).frames, expected) < 1e-5


def test_a_shared_network_has_its_adapter_once(pipe, expected, tmp_path):
    """An adapter of `between2` is one of `between`, under the name of their network."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    adapted = pipeline()
    torch.manual_seed(0)
    adapted.between_unet.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    frames = run(adapted).frames
    assert max_difference(frames, expected) > 1e-3
    layers = get_peft_model_state_dict(adapted.between_unet)
    ToyCascadePipeline.save_lora_weights(tmp_path, between_unet_lora_layers=layers)
    for stage in (None, "between", "between2"):
        other = pipeline()
        other.load_lora_weights(tmp_path, stage=stage)
        assert other.get_list_adapters() == {"between_unet": ["default_0"]}
        assert max_difference(run(other).frames, frames) < 1e-5
    ToyBetweenPipeline.save_lora_weights(tmp_path / "stage", unet_lora_layers=layers)
    other = pipeline()
    other.load_lora_weights(tmp_path / "stage", stage="between2")
    assert max_difference(run(other).frames, frames) < 1e-5
    with pytest.raises(ValueError, match=r"`stage` must be one of .*'between2'.*: the adapter does not say"):
        pipeline().load_lora_weights(tmp_path / "stage")


def test_from_stages_takes_a_shared_network_from_the_first(expected):
    parts = {name: pipeline(name) for name in ToyCascadePipeline.stage_names}
    made = ToyCascadePipeline.from_stages(**parts, stage_defaults=SMALL_RUN)
    assert made.between_unet is parts["between"].unet
    made.set_progress_bar_config(disable=True)
    assert torch.equal(run(made).frames, expected)
    with pytest.raises(TypeError, match=r"`from_stages` needs .*, got none for \['between2'\]"):
        ToyCascadePipeline.from_stages(**{name: part for name, part in parts.items() if name != "between2"})


# --- what is handed over ---------------------------------------------------------------------------------------------


class Decoded:
    """How many frames an autoencoder has decoded."""

    def __init__(self, vae):
        self.count = 0
        vae.decoder.register_forward_pre_hook(self)

    def __call__(self, _, args):
        self.count += len(args[0])


def test_latents_are_decoded_once():
    """Whatever is asked for besides, and not at all where nothing takes pixels."""
    pipe = pipeline()
    decoded = Decoded(pipe.frames_vae)
    run(pipe, return_stages=True, callback_on_stage_end=lambda *_: None)
    assert decoded.count == 2
    latents = run(pipe, stop_after="frames", output_type="latent").frames
    assert decoded.count == 2
    assert latents.shape == (1, 4, 2, 4, 6)


def test_latents_for_users_are_the_stages_own_space(pipe, expected):
    """`output_type="latent"` is each stage's own, of all that are asked for, and changes no number on the way."""
    stages = run(pipe, output_type="latent", return_stages=True).stages
    assert {name: tuple(video.shape) for name, video in stages.items()} == {
        "frames": (1, 4, 2, 4, 6),
        "between": (1, 3, 3, 8, 12),
        "between2": (1, 3, 5, 8, 12),
        "upscale": (1, 3, 5, 16, 24),
    }
    assert torch.equal((stages["upscale"] / 2 + 0.5).clamp(0, 1).transpose(1, 2), expected)


def test_a_rung_may_take_latents_as_they_are():
    """What is handed over has the latents, their autoencoder, and pixels only when they are asked for."""

    class Reader(ToyBetweenPipeline):
        takes = (LATENTS, PIXELS)
        seen = []

        def take(self, frames, input_type=None, name="frames"):
            self.seen.append(frames)
            return super().take(frames, input_type, name)

    class Two(CascadePipeline):
        rungs = (
            Rung("frames", ToyFramesPipeline, shared=("tokenizer", "text_encoder")),
            Rung("between", Reader, shared=("tokenizer", "text_encoder")),
        )
        recipes = {"default": Recipe({name: SMALL_RUN[name] for name in ("frames", "between")})}

    whole = pipeline()
    pipe = Two(**{name: part for name, part in whole.components.items() if not name.startswith("upscale")})
    pipe.set_progress_bar_config(disable=True)
    run(pipe)
    (given,) = Reader.seen
    assert isinstance(given, Handover)
    assert given.vae is pipe.frames_vae
    assert torch.equal(given.video, run(pipe, stop_after="frames", output_type="latent").frames)


# --- views -----------------------------------------------------------------------------------------------------------


def test_views_are_built_once(pipe):
    assert pipe.between is pipe.between
    assert pipe.between2 is not pipe.between
    assert [pipe.stage(name).stage_name for name in pipe.stage_names] == list(pipe.stage_names)
    before = [pipe.stage(name) for name in pipe.stage_names]
    run(pipe)
    assert all(pipe.stage(name) is view for name, view in zip(pipe.stage_names, before, strict=True))


def test_what_is_set_on_one_is_set_on_the_other():
    """And on the other stage that shares it."""
    pipe = pipeline()
    pipe.between2.scheduler = scheduler = DPMSolverMultistepScheduler.from_config(pipe.between_scheduler.config)
    assert pipe.between_scheduler is scheduler
    assert pipe.between.scheduler is scheduler
    pipe.between_scheduler = other = DDIMScheduler()
    assert pipe.between.scheduler is other
    assert pipe.between2.scheduler is other
    with pytest.raises(AttributeError, match=r"`scheduler` is a stage's: set `frames_scheduler` or `between_sched"):
        pipe.scheduler = scheduler


# --- calls -----------------------------------------------------------------------------------------------------------


def test_two_prompts_with_two_generators(pipe):
    """Each video of a batch is the one that is made alone."""
    both = run(pipe, prompt=PROMPTS, generator=[seeded(1), seeded(2)]).frames
    for i, prompt in enumerate(PROMPTS):
        alone = run(pipe, prompt=prompt, generator=[seeded(i + 1)]).frames
        assert max_difference(alone, both[i : i + 1]) < 1e-4
    assert max_difference(both[:1], both[1:]) > 1e-2


def test_stopped_and_gone_on(pipe, expected):
    """In any stage, the last window included: bit for bit, and no network runs again for what is finished."""
    full = WindowStore()
    assert torch.equal(run(pipe, window_store=full).frames, expected)
    assert {name: len(windows) for name, windows in full.windows.items()} == {
        "frames": 1,
        "between": 1,
        "between2": 1,
        "upscale": 2,
    }
    for keep in (["frames"], ["frames", "between"], ["frames", "between", "between2"]):
        store = WindowStore({name: full.windows[name] for name in keep} | {"upscale": full.windows["upscale"][:1]})
        if keep[-1] != "between2":
            store.windows.pop("upscale")
        with Calls(pipe.between_unet) as calls:
            assert torch.equal(run(pipe, window_store=store).frames, expected)
        assert len(calls) == 3 - (2 if "between" in keep else 0) - (1 if "between2" in keep else 0)
    with pytest.raises(ValueError, match=r"`window_store` must name stages of .*, got \['other'\]"):
        run(pipe, window_store=WindowStore({"other": []}))


def test_a_video_in_place_of_the_first_stages(pipe):
    video = run(pipe, stop_after="between2").frames
    made = run(pipe, video=video).frames
    assert made.shape == (1, 5, 3, 16, 24)
    longer = run(pipe, video=video, start_at="between2").frames
    assert longer.shape == (1, 9, 3, 16, 24)
    with pytest.raises(ValueError, match="`start_at` must be a stage that takes frames, got 'frames'"):
        run(pipe, video=video, start_at="frames")


def test_bad_options_name_the_stage(pipe):
    """Two stages of one class are told apart."""
    with pytest.raises(ValueError, match="stage 'between2': `guidance_scale`.*got -1"):
        run(pipe, stage_options={"between2": {"guidance_scale": -1}})
    with pytest.raises(ValueError, match="stage 'frames': `height` must be a multiple of 2"):
        run(pipe, stage_options={"frames": {"height": 9}})
    with pytest.raises(ValueError, match=r"`stage_options\['between2'\]` has no option 'window_size'"):
        run(pipe, stage_options={"between2": {"window_size": 3}})
    with pytest.raises(TypeError, match=r"takes no `window_size`: give it to a stage, as in .*'upscale'"):
        run(pipe, window_size=3)
