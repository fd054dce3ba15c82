# SPDX-License-Identifier: Apache-2.0
"""What a family knows of checkpoints that are not in its own layout: values, read by recognition and conversion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Foreign:
    """Models of other people, of which a conversion makes a stage.

    Args:
        name: what `recognise` calls this kind.
        title: in words, with the article.
        classes: what an index calls the pipeline -> the rungs that it can become, the likeliest first.
        licence: what the weights are under, in a sentence. `{page}` in it stands for the page of the licence.
        page: the licence's, for weights that lie in a folder; those on the Hub have a page of their own.
        network: what the index calls the network.
        libraries: of the network, as the index has it; empty for any.
        inflated: for image networks: rung -> what the network class's `from_2d` is called with besides the image
            network. Empty where the network is a video network of the family by another name.
    """

    name: str
    title: str
    classes: Mapping[str, tuple[str, ...]]
    licence: str
    page: str = ""
    network: str = "unet"
    libraries: tuple[str, ...] = ()
    inflated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """A published network, for state dicts that come without a config.

    Args:
        class_name: of `Family.networks`.
        config: of that class.
        renamed: what the state dict calls the parameters: pairs of a regular expression and what stands for it in
            our names, applied in order. Empty where the names are ours.
    """

    class_name: str
    config: Mapping[str, Any]
    renamed: tuple[tuple[str, str], ...] = ()

    def rename(self, stored: str) -> str:
        """Our name of a stored parameter."""
        for pattern, name in self.renamed:
            stored = re.sub(pattern, name, stored)
        return stored


@dataclass(frozen=True)
class Loan:
    """Components of a cascade that come from a model of other people.

    Args:
        title: of the model, in words.
        foreign: the name of its `Foreign`.
        rung: what `Foreign.classes` says of it.
        components: what its index calls them -> what the cascade does.
    """

    title: str
    foreign: str
    rung: str
    components: Mapping[str, str]


@dataclass(frozen=True)
class Checkpoints:
    """What a family knows of checkpoints that are not in its own layout.

    Args:
        licence: what the published weights are under, in a sentence.
        foreign: the models of other people that it makes stages of.
        network_names: what indexes and configs call its networks besides their own names -> our class.
        networks: name of a published network, such as its rung -> the network.
        loans: name, beside the rungs, in the dict of sources of a cascade -> what it gives.
    """

    licence: str = ""
    foreign: tuple[Foreign, ...] = ()
    network_names: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    loans: Mapping[str, Loan] = field(default_factory=dict)


def licence_page(repo_id: str) -> str:
    """How to get at a gated repository, in one clause."""
    return f"log in to the Hub and accept its licence on https://huggingface.co/{repo_id}, then `hf auth login` here"
