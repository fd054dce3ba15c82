# SPDX-License-Identifier: Apache-2.0
"""What a Hugging Face Inference Endpoint runs: JSON in, an mp4 out. `show1 publish` puts this file into a repository.

    {"inputs": "a panda beside a waterfall", "parameters": {"num_frames": 29, "seed": 7}}

becomes

    {"video": "<mp4, base64>", "content_type": "video/mp4", "num_frames": 29, "height": 320, "width": 576, "fps": 8.0,
     "seed": 7}

The endpoint's server writes JSON, which holds no bytes: hence base64. It answers whatever a handler raises with status
400 and `{"error": "<the message>"}`, so a `BadRequest` says which field is wrong, what it is and what it may be.

`parameters`, all optional:
    negative_prompt       a text, or a list of them: what to keep out
    num_frames            frames of the clip (not for the stages that work on a video)
    num_inference_steps   denoising steps; for the cascade, of every stage
    guidance_scale        how closely the text is followed; for the cascade, in every stage. 1 turns guidance off
    seed                  the same seed gives the same clip; drawn, and told in the answer, if it is left out
    video                 for the stages that work on a video: the clip, base64 of any file that FFmpeg decodes

This file stands alone. It runs in both revisions of a repository: `main`, where the package diffusers-show1 is
installed (requirements.txt asks for it), and `remote-code`, which carries the pipelines' code itself.
"""

import base64
import importlib
import importlib.util
import inspect
import io
import json
import math
import secrets
import threading
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
import torch
from diffusers import DiffusionPipeline


FPS = 8.0
KEYFRAME_FPS = 2.0  # before interpolation puts three frames between two keyframes
# Limits, so that one request cannot hold a machine for hours or run it out of memory. They are far beyond what the
# networks were trained at: 8 keyframes, 29 frames.
MAX_FRAMES = 121
MAX_STEPS = 250
MAX_GUIDANCE = 50.0
MAX_PROMPT = 2000  # characters; the text encoders read 77 tokens
MAX_VIDEO_BYTES = 32 * 2**20
MAX_VIDEO_PIXELS = 576 * 320
# Options of FFmpeg. Without them it also opens playlists (.m3u8, ffconcat, ...) and reads what they name.
VIDEO_FILES_ONLY = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ogg,flv,asf,"
    "ivf,nut,gif,png_pipe,jpeg_pipe,webp_pipe",
    "protocol_whitelist": "",
}
MAX_SEED = 2**53  # whole numbers up to here survive any JSON reader


class BadRequest(ValueError):
    """The request cannot be used, and the message says what is wrong with it."""

    status_code = 400


class EndpointHandler:
    """Loads the repository in the folder `path` and answers requests with it."""

    def __init__(self, path: str = "") -> None:
        index = json.loads((Path(path) / "model_index.json").read_text(encoding="utf-8"))
        carries_code = isinstance(index["_class_name"], list)
        if not carries_code:
            import_libraries(index)
        on_gpu = torch.cuda.is_available()
        dtype = torch.float16 if on_gpu else torch.float32
        self.pipe = DiffusionPipeline.from_pretrained(path, dtype=dtype, trust_remote_code=carries_code)
        self.pipe.set_progress_bar_config(disable=True)
        if on_gpu:
            self._move_to_gpu()
        # the server may call from several threads, and a pipeline keeps the state of its run
        self._lock = threading.Lock()
        arguments = inspect.signature(type(self.pipe).__call__).parameters
        self.is_cascade = hasattr(self.pipe, "stage_names")
        self.takes_video = "frames" in arguments
        own = "video" if self.takes_video else "num_frames"
        self.parameters = ("negative_prompt", own, "num_inference_steps", "guidance_scale", "seed")

    def _move_to_gpu(self) -> None:
        """All networks on the GPU if that leaves a third of it for their work, else one at a time."""
        modules = [m for m in self.pipe.components.values() if isinstance(m, torch.nn.Module)]
        needed = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
        if needed < torch.cuda.get_device_properties(0).total_memory * 2 / 3:
            self.pipe.to("cuda")
        else:
            self.pipe.enable_model_cpu_offload()

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Answer one request. Raises `BadRequest` for one that cannot be used."""
        mp4, facts = self.make(data)
        return {"video": base64.b64encode(mp4).decode("ascii"), "content_type": "video/mp4", **facts}

    def make(self, data: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """The clip that a request asks for, as the bytes of an mp4, and what it is."""
        arguments, seed = self.read(data)
        try:
            with self._lock:
                frames = self.pipe(
                    **arguments,
                    generator=torch.Generator().manual_seed(seed),
                    output_type="np",
                    num_videos_per_prompt=1,
                ).frames[0]
        except ValueError as error:  # numbers that do not fit the model or each other: its checks name the argument
            raise BadRequest(" ".join(str(error).split())) from error
        clip = np.rint(np.asarray(frames, dtype=np.float32) * 255).clip(0, 255).astype(np.uint8)
        fps = KEYFRAME_FPS if "num_frames" in self.parameters and not self.is_cascade else FPS
        count, height, width, _ = clip.shape
        return encode(clip, fps), {
            "num_frames": count,
            "height": height,
            "width": width,
            "fps": fps,
            "seed": seed,
        }

    def read(self, data: Any) -> tuple[dict[str, Any], int]:
        """A request -> the arguments of the pipeline's call, and the seed."""
        if not isinstance(data, dict):
            refuse("the request", data, 'a JSON object, such as {"inputs": "a panda", "parameters": {"seed": 7}}')
        prompt = data.get("inputs")
        if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > MAX_PROMPT:
            refuse("inputs", prompt, f"a text that is not empty, of at most {MAX_PROMPT} characters")
        given = data.get("parameters")
        if given is None:
            given = {}
        if not isinstance(given, dict):
            refuse("parameters", given, "a JSON object")
        for name in given:
            if name not in self.parameters:
                refuse("parameters", name, f"made of {', '.join(self.parameters)}")
        given = {name: value for name, value in given.items() if value is not None}

        arguments: dict[str, Any] = {"prompt": prompt}
        negative = given.get("negative_prompt")
        if negative is not None:
            texts = negative if isinstance(negative, list) else [negative]
            if not all(isinstance(text, str) for text in texts) or len(", ".join(texts)) > MAX_PROMPT:
                refuse("parameters.negative_prompt", negative, f"texts of at most {MAX_PROMPT} characters in all")
            arguments["negative_prompt"] = ", ".join(texts)
        if "num_frames" in given:
            least = 2 if self.is_cascade else 1
            arguments["num_frames"] = whole_number("parameters.num_frames", given["num_frames"], least, MAX_FRAMES)
        options: dict[str, Any] = {}
        if "num_inference_steps" in given:
            steps = given["num_inference_steps"]
            options["num_inference_steps"] = whole_number("parameters.num_inference_steps", steps, 1, MAX_STEPS)
        if "guidance_scale" in given:
            scale = given["guidance_scale"]
            # Written so that NaN fails; true and false are ints to Python.
            if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not 1 <= scale <= MAX_GUIDANCE:
                refuse("parameters.guidance_scale", scale, f"a number from 1 to {MAX_GUIDANCE:g}")
            options["guidance_scale"] = float(scale)
        if self.is_cascade:
            arguments["stage_options"] = dict.fromkeys(self.pipe.stage_names, options) if options else None
        else:
            arguments.update(options)
        if self.takes_video:
            arguments["frames"] = decode("parameters.video", given.get("video"))
        seed = given.get("seed")
        seed = secrets.randbelow(2**32) if seed is None else whole_number("parameters.seed", seed, 0, MAX_SEED)
        return arguments, seed


def import_libraries(index: dict[str, Any]) -> None:
    """Import what teaches diffusers the class names in a `model_index.json`: this package, and its networks' own."""
    names = {"diffusers_show1", *(entry[0] for entry in index.values() if isinstance(entry, list) and entry[0])}
    for name in sorted(names - {"diffusers", "transformers"}):
        if "." not in name and importlib.util.find_spec(name) is not None:
            importlib.import_module(name)


def refuse(field: str, value: Any, allowed: str) -> NoReturn:
    """Raise `BadRequest` with the field, what it may be and what it is, on one line."""
    told = repr(value)
    raise BadRequest(f"{field} must be {allowed}; got {told if len(told) <= 100 else told[:100] + '...'}")


def whole_number(field: str, value: Any, least: int, most: int) -> int:
    """`value` if it is a whole number from `least` to `most` (7.0 is 7: JSON has one kind of number)."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        refuse(field, value, f"a whole number from {least} to {most}")
    return value


def encode(clip: np.ndarray, fps: float) -> bytes:
    """`(f, h, w, 3)` uint8 -> the bytes of an mp4 (H.264, yuv420p), an odd height or width with its last row twice."""
    height, width = clip.shape[1:3]
    # H.264 as players expect it has even sizes only
    clip = np.pad(clip, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=round(fps), options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], "yuv420p"
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def check_size(field: str, picture: Any, allowed: str) -> None:
    """Refuse a picture, or a stream of them, with more pixels than `MAX_VIDEO_PIXELS`."""
    if picture.width * picture.height > MAX_VIDEO_PIXELS:
        refuse(field, f"{picture.width}x{picture.height}", allowed)


def decode(field: str, text: Any) -> list[Any]:
    """Base64 of a video file -> its frames, as images. Nothing is read until its size is known to be bearable."""
    allowed = (
        f"base64 of a video of at most {MAX_VIDEO_BYTES >> 20} MiB, {MAX_FRAMES} frames and {MAX_VIDEO_PIXELS} pixels "
        "a frame"
    )
    if not isinstance(text, str) or not text or len(text) > MAX_VIDEO_BYTES * 4 // 3 + 4:
        refuse(field, text, allowed)
    frames = []
    try:
        content = io.BytesIO(base64.b64decode(text, validate=True))
        with av.open(content, mode="r", options=VIDEO_FILES_ONLY, metadata_errors="replace") as container:
            stream = container.streams.video[0]
            check_size(field, stream, allowed)
            for frame in container.decode(stream):
                check_size(field, frame, allowed)  # which may change on the way, whatever the file's head says
                frames.append(frame.to_image())
                if len(frames) > MAX_FRAMES:
                    refuse(field, f"more than {MAX_FRAMES} frames", allowed)
    except BadRequest:
        raise
    # ValueError: no base64; IndexError: a file without a video stream
    except (ValueError, av.FFmpegError, IndexError) as error:
        refuse(field, f"{text[:40]}... ({error})", allowed)
    if not frames:
        refuse(field, "a video without frames", allowed)
    return frames
