"""What kind of weights a bundle has, in the words that a picture, a note and ``info`` use for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Words:
    """``title`` follows a model's name, ``note`` says what its pictures are worth; empty where neither is needed."""

    title: str = ""
    note: str = ""


_KINDS: Mapping[str, Words] = MappingProxyType(
    {
        "random": Words(" (random weights)", "the weights of this bundle are random: its pictures mean nothing"),
        "small-world": Words(
            " (small model of a made-up world)",
            "the weights of this bundle learned a small made-up world: nothing it generates is science",
        ),
    }
)


def words_for(weights: str) -> Words:
    """The words for the manifest's ``weights``; none for a kind that needs no warning."""
    return _KINDS.get(weights, Words())
