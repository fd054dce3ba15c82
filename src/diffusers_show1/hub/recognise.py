# SPDX-License-Identifier: Apache-2.0
"""What a model is, told from its `model_index.json` alone.

    recognise("showlab/show-1-sr2")   # the published refinement stage
    recognise("folder/of/weights")    # a cascade, a stage, DeepFloyd IF, ModelScope, or something else
    load_cascade("showlab")           # the cascade that a name stands for, whichever of these it is

Nothing but the index is read, and from the Hub nothing else is downloaded.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .registration import OWN_LIBRARY, PUBLISHED_PIPELINES, PUBLISHED_UNET_MODULE, is_published_refinement


if TYPE_CHECKING:
    from ..families.show1.cascade import Show1CascadePipeline

PUBLISHED_REPOS = {
    "base": "showlab/show-1-base",
    "interpolation": "showlab/show-1-interpolation",
    "superres": "showlab/show-1-sr1",
    "refine": "showlab/show-1-sr2",
}
FIRST_FRAME_REPO = "DeepFloyd/IF-II-L-v1.0"  # the released code makes the first frame of super-resolution with it
STAGE_CLASSES = {
    "base": "Show1KeyframePipeline",
    "interpolation": "Show1InterpolationPipeline",
    "superres": "Show1SuperResolutionPipeline",
    "refine": "Show1RefinementPipeline",
}
_STAGE_OF = {name: stage for stage, name in STAGE_CLASSES.items()}
_IF = {
    "IFPipeline": "I",
    "IFImg2ImgPipeline": "I",
    "IFInpaintingPipeline": "I",
    "IFSuperResolutionPipeline": "II",
    "IFImg2ImgSuperResolutionPipeline": "II",
    "IFInpaintingSuperResolutionPipeline": "II",
}
_MODELSCOPE = ("TextToVideoSDPipeline", "VideoToVideoSDPipeline")


@dataclasses.dataclass(frozen=True)
class Kind:
    """What `recognise` found.

    Attributes:
        name: `"cascade"`, `"published"` (a stage as showlab released it), `"published-cascade"` (all four of them),
            `"stage"` (a stage as this package saves it), `"if"` (DeepFloyd IF), `"modelscope"` (ModelScope,
            zeroscope), `"other"` (another model of diffusers) or `"none"` (no model).
        stage: the stage it is, or that `convert` can make of it; `None` for a cascade and for what is neither.
        class_name: what the index calls the pipeline.
        remote_code: the index names a Python file in the repository, which runs only with `trust_remote_code=True`.
        note: why it is no model.
    """

    name: str
    stage: str | None = None
    class_name: str | None = None
    remote_code: bool = False
    note: str = ""

    @property
    def generates(self) -> bool:
        """Whether `load_cascade` takes it."""
        return self.name in ("cascade", "published-cascade")

    def __str__(self) -> str:
        what = {
            "cascade": "a Show-1 cascade",
            "published-cascade": "the four published Show-1 stages",
            "published": f"the {self.stage} stage of Show-1 as it was published",
            "stage": f"the {self.stage} stage of a Show-1 cascade",
            "if": f"a DeepFloyd IF model ({self.class_name})",
            "modelscope": f"a ModelScope video model ({self.class_name})",
            "other": f"a {self.class_name}",
            "none": "no model",
        }[self.name]
        return f"{what} ({self.note})" if self.note else what


def recognise(model: str | Path, revision: str | None = None) -> Kind:
    """Tells what a model is.

    Args:
        model: `"tiny"`, `"showlab"` (the four published stages), a folder, or a Hub id (owner/name).
        revision: a branch, tag or commit, for a Hub id.

    Returns:
        A `Kind`; `Kind("none", note=...)` for a folder without an index, a name that is no Hub id, and a repository
        that does not exist or has no index.

    Raises:
        OSError: the Hub was asked and could not answer (no connection, or the repository is gated).
    """
    name = str(model)
    if name == "showlab":
        return Kind("published-cascade")
    if name == "tiny":
        from ..tiny import TINY_PATH

        name = str(TINY_PATH)
    try:
        path = find_index(name, revision)
        index = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        return Kind("none", note=str(error))
    except (ValueError, RecursionError):
        return Kind("none", note="its model_index.json is no JSON")
    return recognise_index(index)


def find_index(model: str, revision: str | None = None) -> Path:
    """The path of a folder's or a repository's `model_index.json`; of a repository, downloads that file only.

    Raises:
        FileNotFoundError: there is no such folder, repository or file, with the reason.
        OSError: the Hub could not be asked.
    """
    if Path(model).is_dir():
        path = Path(model) / "model_index.json"
        if not path.is_file():
            raise FileNotFoundError(f"{model} has no model_index.json")
        return path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        raise FileNotFoundError(f"there is no folder {model}") from None
    if "/" not in model:
        raise FileNotFoundError(f"there is no folder {model}, and a Hub id has an owner: owner/name")
    try:
        return Path(hf_hub_download(model, "model_index.json", revision=revision))
    except GatedRepoError:
        raise PermissionError(f"{model} is gated: {licence_page(model)}") from None
    except LocalEntryNotFoundError as error:  # also an EntryNotFoundError, but the Hub has not said so
        raise OSError(f"{model} is not in the cache, and the Hub cannot be reached") from error
    except RepositoryNotFoundError:
        raise FileNotFoundError(f"there is neither a folder nor a repository {model}") from None
    except RevisionNotFoundError:
        raise FileNotFoundError(f"{model} has no revision {revision}") from None
    except EntryNotFoundError:
        raise FileNotFoundError(f"{model} has no model_index.json") from None


def recognise_index(index: Any) -> Kind:
    """What an index, the content of a `model_index.json`, describes."""
    name = index.get("_class_name") if isinstance(index, dict) else None
    remote_code = isinstance(name, list) and len(name) == 2
    if isinstance(name, list) and remote_code:
        name = name[1]
    if not isinstance(name, str):
        return Kind("none", note="its model_index.json names no pipeline")

    def kind(what: str, stage: str | None = None) -> Kind:
        return Kind(what, stage, name, remote_code)

    if name == "Show1CascadePipeline":
        return kind("cascade")
    if name in _STAGE_OF:
        return kind("stage", _STAGE_OF[name])
    if name in PUBLISHED_PIPELINES:
        stage = _STAGE_OF[PUBLISHED_PIPELINES[name]]
        return kind("stage" if _library(index, "unet") == OWN_LIBRARY else "published", stage)
    if is_published_refinement(index):
        return kind("stage" if _library(index, "unet") == OWN_LIBRARY else "published", "refine")
    if name in _IF:
        return kind("if", "base" if _IF[name] == "I" else "superres")
    if name in _MODELSCOPE and _library(index, "unet") in ("diffusers", PUBLISHED_UNET_MODULE):
        return kind("modelscope", "refine")
    return kind("other")


def _library(index: dict[str, Any], component: str) -> str | None:
    entry = index.get(component)
    return entry[0] if isinstance(entry, list) and entry else None


def licence_page(repo_id: str) -> str:
    """How to get at a gated repository, in one clause."""
    return f"log in to the Hub and accept its licence on https://huggingface.co/{repo_id}, then `hf auth login` here"


# --- from a name to a cascade ------------------------------------------------------------------------------------


def load_cascade(
    model: str | Path, revision: str | None = None, first_frame: Any = FIRST_FRAME_REPO, **kwargs: Any
) -> Show1CascadePipeline:
    """The cascade that `model` stands for, whichever kind it is.

    Args:
        model: `"tiny"`, `"showlab"` (the four published stages), a folder, or a Hub id (owner/name).
        revision: a branch, tag or commit, for a Hub id.
        first_frame: for `"showlab"`: the image super-resolution model of the first frame, a Hub id, a folder or a
            loaded pipeline; `None` runs without. DeepFloyd IF-II is gated: where it cannot be had, a warning points to
            its licence page, and the cascade runs without it.
        kwargs: for `from_pretrained`, such as `dtype=torch.float16`.

    Returns:
        The cascade, on the CPU.

    Raises:
        ValueError: `model` is none of a cascade; names what it is, and what to do with it.
        OSError: a file is missing, damaged or refused, or the Hub cannot be reached.
    """
    from ..families.show1.cascade import Show1CascadePipeline

    kind = recognise(model, revision)
    if kind.name == "published-cascade":
        stages: dict[str, Any] = {**PUBLISHED_REPOS, "first_frame": load_first_frame(first_frame, **kwargs)}
        return Show1CascadePipeline.from_stages(**stages, **kwargs)
    if not kind.generates:
        allowed = "tiny, showlab, or a folder or Hub id of a Show-1 cascade"
        raise ValueError(f"`model` must be {allowed}, got {str(model)!r}, which is {kind}{_advice(kind, model)}.")
    source = str(model)
    if source == "tiny":
        from ..tiny import TINY_PATH

        source = str(TINY_PATH)
    return Show1CascadePipeline.from_pretrained(source, revision=revision, **kwargs)


def _advice(kind: Kind, model: str | Path) -> str:
    if kind.name in ("published", "stage"):
        return ". A stage alone makes no video: put four together with `Show1CascadePipeline.from_stages`"
    if kind.name in ("if", "modelscope"):
        return f". `show1 convert {model}` makes the {kind.stage} stage of it"
    return ""


def load_first_frame(source: Any = FIRST_FRAME_REPO, **kwargs: Any) -> Any:
    """DeepFloyd IF-II for the first frame of super-resolution, or `None` with a warning where it cannot be had.

    Args:
        source: a Hub id, a folder, a loaded pipeline, or `None`.
        kwargs: for `from_pretrained`.
    """
    if not isinstance(source, (str, Path)):
        return source
    from diffusers import IFSuperResolutionPipeline
    from diffusers.utils import logging

    unused = {"tokenizer": None, "text_encoder": None, "safety_checker": None, "watermarker": None}
    try:
        return IFSuperResolutionPipeline.from_pretrained(str(source), **unused, **kwargs)
    except OSError as error:
        logging.get_logger(__name__).warning(
            f"{source} makes the first frame of super-resolution in the released code, and cannot be loaded "
            f"({str(error).strip().splitlines()[0]}). Continuing without it. It is gated: {licence_page(str(source))}."
        )
        return None
