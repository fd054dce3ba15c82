# SPDX-License-Identifier: Apache-2.0
"""What a model is, told from its `model_index.json` alone.

    recognise("showlab/show-1-sr2")   # a published stage
    recognise("folder/of/weights")    # a cascade, a stage, a model that a stage can be made of, or something else
    load_cascade("showlab")           # the cascade that a name stands for, whichever of these it is

Nothing but the index is read, and from the Hub nothing else is downloaded. What there is to recognise, the families'
entries say.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..families import all_families, short_names
from ..ladder.checkpoints import Foreign, licence_page
from ..ladder.family import Family
from .remote import answered


if TYPE_CHECKING:
    from ..ladder.cascade import CascadePipeline

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclasses.dataclass(frozen=True)
class Kind:
    """What `recognise` found.

    Attributes:
        name: `"cascade"`, `"published"` (a stage as its authors released it), `"published-cascade"` (all of them),
            `"stage"` (a stage as this package saves it), the name of a `Foreign` (`"if"`, `"modelscope"`: a model
            that `convert` makes a stage of), `"other"` (another model of diffusers) or `"none"` (no model).
        stage: the stage it is, or that `convert` can make of it; `None` for a cascade and for what is neither.
        class_name: what the index calls the pipeline.
        remote_code: the index names a Python file in the repository, which runs only with `trust_remote_code=True`.
        note: why it is no model.
        family: whose it is, or whose stage it can become.
        foreign: what is known of it, where it is neither a cascade nor a stage.
    """

    name: str
    stage: str | None = None
    class_name: str | None = None
    remote_code: bool = False
    note: str = ""
    family: Family | None = dataclasses.field(default=None, repr=False)
    foreign: Foreign | None = dataclasses.field(default=None, repr=False)

    @property
    def generates(self) -> bool:
        """Whether `load_cascade` takes it."""
        return self.name in ("cascade", "published-cascade")

    def __str__(self) -> str:
        if self.family is None:
            what = f"a {self.class_name}" if self.name == "other" else "no model"
        elif self.foreign is not None:
            what = f"{self.foreign.title} ({self.class_name})"
        else:
            title = self.family.title
            what = {
                "cascade": f"a {title} cascade",
                "published-cascade": f"the {_NUMBERS[len(self.family.published)]} published {title} stages",
                "published": f"the {self.stage} stage of {title} as it was published",
                "stage": f"the {self.stage} stage of a {title} cascade",
            }[self.name]
        return f"{what} ({self.note})" if self.note else what


def recognise(model: str | Path, revision: str | None = None) -> Kind:
    """Tells what a model is.

    Args:
        model: a family's short name (`"tiny"`, `"showlab"`), a folder, or a Hub id (owner/name).
        revision: a branch, tag or commit, for a Hub id.

    Returns:
        A `Kind`; `Kind("none", note=...)` for a folder without an index, a name that is no Hub id, and a repository
        that does not exist or has no index.

    Raises:
        OSError: the Hub was asked and could not answer (no connection, or the repository is gated).
    """
    name, family = resolve(model)
    if name is None:
        return Kind("published-cascade", family=family)
    try:
        path = find_index(name, revision)
        index = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        return Kind("none", note=str(error))
    except (ValueError, RecursionError):
        return Kind("none", note="its model_index.json is no JSON")
    return recognise_index(index)


def resolve(model: str | Path) -> tuple[str | None, Family | None]:
    """A short name -> its folder, or None for a published cascade, and its family; other names as they are."""
    family = short_names().get(str(model))
    if family is None:
        return str(model), None
    folder = family.short_names[str(model)]
    return (None if folder is None else str(folder)), family


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
        with answered(model):
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

    def kind(what: str, stage: str | None, family: Family | None, foreign: Foreign | None = None) -> Kind:
        return Kind(what, stage, name, remote_code, family=family, foreign=foreign)

    for family in all_families():
        ours = family.pipeline_of(index)
        if ours == family.cascade:
            return kind("cascade", None, family)
        if ours is not None:
            saved = name == ours or any(_library(index, part) == family.library for part in index)
            return kind("stage" if saved else "published", family.rung_of(ours), family)
    for family in all_families():
        for foreign in family.known_checkpoints.foreign:
            known = not foreign.libraries or _library(index, foreign.network) in foreign.libraries
            if known and name in foreign.classes:
                return kind(foreign.name, foreign.classes[name][0], family, foreign)
    return kind("other", None, None)


def _library(index: dict[str, Any], component: str) -> str | None:
    entry = index.get(component)
    return entry[0] if isinstance(entry, list) and entry else None


# --- from a name to a cascade ------------------------------------------------------------------------------------


def load_cascade(model: str | Path, revision: str | None = None, **kwargs: Any) -> CascadePipeline:
    """The cascade that `model` stands for, whichever kind it is.

    Args:
        model: a family's short name (`"tiny"`, `"showlab"`), a folder, or a Hub id (owner/name).
        revision: a branch, tag or commit, for a Hub id.
        kwargs: for `from_pretrained`, such as `dtype=torch.float16`; for a published cascade, those of its family's
            loader besides (Show-1's takes `first_frame`).

    Returns:
        The cascade, on the CPU.

    Raises:
        ValueError: `model` is none of a cascade; names what it is, and what to do with it.
        OSError: a file is missing, damaged or refused, or the Hub cannot be reached.
    """
    kind = recognise(model, revision)
    if not kind.generates or kind.family is None:
        titles = " or ".join(family.title for family in all_families())
        allowed = f"{', '.join(short_names())}, or a folder or Hub id of a {titles} cascade"
        raise ValueError(f"`model` must be {allowed}, got {str(model)!r}, which is {kind}{_advice(kind, model)}.")
    source, _ = resolve(model)
    with answered(str(model)):
        if source is None:
            return kind.family.load_published(**kwargs)
        return kind.family.cascade_class.from_pretrained(source, revision=revision, **kwargs)


def _advice(kind: Kind, model: str | Path) -> str:
    if kind.family is None:
        return ""
    if kind.foreign is not None:
        return f". `show1 convert {model}` makes the {kind.stage} stage of it"
    count = _NUMBERS[len(kind.family.stages)]
    return f". A stage alone makes no video: put {count} together with `{kind.family.cascade}.from_stages`"
