"""Where a network that is to be trained keeps what in its token stream: orthogonal directions, each for one thing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...runtime.modalities import KEYS, MODALITIES
from ...runtime.schedule import TRAIN_STEPS
from ..network import CopgenNetwork, NetworkConfig

# Lengths of what a token holds beside its content, which has variance 1 a direction at t = 1000. The steady part is
# the longest: against it the layer norms of a post-norm network, which divide by a token's length, are nearly linear in
# the content.
STEADY, CODE, PLACE, TIME = 15.0, 4.0, 8.0, 5.0
_USUAL_CONTENT = 100.0


@dataclass(frozen=True)
class Stream:
    """Directions (width, n) along the axes of the token stream: the content of a patch and an estimate of what it is
    without noise, the estimate of the land cover at its place and what of that counts at its time, the elevation there
    (``relief``), the season and the latitude (``sun``), its place, the codes of modalities in time tokens (``clock``)
    and in patch tokens (``modality``), the time that those have been told, and what is always there.

    ``codes`` (12, n) and ``places``, (tokens, n) a modality, are what tokens hold there; ``shrunk`` is what all is
    multiplied by once a layer norm has been passed.
    """

    content: Tensor
    estimate: Tensor
    cover: Tensor
    counted: Tensor
    relief: Tensor
    sun: Tensor
    place: Tensor
    clock: Tensor
    modality: Tensor
    time: Tensor
    steady: Tensor
    codes: Tensor
    places: list[Tensor]
    shrunk: float

    def positions(self) -> Tensor:
        """The position embedding (tokens, width)."""
        parts = [CODE * self.codes @ self.clock.T]
        for code, place in zip(self.codes, self.places, strict=True):
            parts.append(STEADY * self.steady.T + CODE * code[None] @ self.modality.T + place @ self.place.T)
        return torch.cat(parts)

    def components(self, count: int) -> Tensor:
        """Which content directions the ``count`` principal components of a patch lie along, the strongest first; the
        last ones have none where there are too many. Fewer are spread, so that equal directions have like variances in
        all modalities."""
        size = self.content.shape[1]
        kept = min(count, size)
        return (torch.arange(kept) * size) // kept if kept > 1 else torch.tensor([size // 3])

    def moved(self, rows: int, columns: int) -> Tensor:
        """Read-out (n, width) of the place that lies so many sixths of the patch's side away."""
        turns = []
        for sixths in (rows, columns):
            angle = _frequencies(self.place.shape[1]) * sixths / 6
            cosine, sine = torch.diag(angle.cos()), torch.diag(angle.sin())
            turns.append(torch.cat([torch.cat([cosine, sine], dim=1), torch.cat([-sine, cosine], dim=1)]))
        return torch.block_diag(*turns) @ self.place.T  # type: ignore[no-untyped-call]


def lay_out(network: CopgenNetwork) -> Stream:
    """Directions, codes and places for ``network``; draws from the global random stream."""
    width = network.config.width
    # Along the axes, since an optimizer that treats every weight alike would move the sum of many weights by as many
    # times its rate, and the steady part would carry that everywhere.
    by_change = all_clocks(network).var(dim=0).argsort(descending=True)
    basis = torch.eye(width, dtype=torch.float64)[:, by_change]
    # Content may lie where time tokens do, since no token has both; codes, by which heads tell tokens, must not.
    content = width // 3
    left = width - 2 * content
    code = min(len(KEYS), (left - 3) // 4)
    place = min(16, (left - 3 - 2 * code) // 4 * 4)
    free = left - 3 - 2 * code - place
    cover = min(32, free // 2)
    sun = min(2, free - 2 * cover)
    sizes = [content, content, cover, cover, free - 2 * cover - sun, sun, place, code, code, 2, 1]
    own, estimate, around, counted, relief, toward, where, clock, modality, time, steady = basis.split(sizes, dim=1)  # type: ignore[no-untyped-call]
    codes = torch.eye(len(KEYS), code, dtype=torch.float64)
    if code < len(KEYS):
        codes = torch.nn.functional.normalize(torch.randn_like(codes), dim=1)
    length = STEADY**2 + CODE**2 + PLACE**2 + TIME**2 + min(_USUAL_CONTENT, width)
    return Stream(
        content=own,
        estimate=estimate,
        cover=around,
        counted=counted,
        relief=relief,
        sun=toward,
        place=where,
        clock=clock,
        modality=modality,
        time=time,
        steady=steady,
        codes=codes,
        places=_places(network.config, place),
        shrunk=math.sqrt(width / length),
    )


def all_clocks(network: CopgenNetwork) -> Tensor:
    """The time tokens (1000, width) of all timesteps."""
    steps = torch.arange(1, TRAIN_STEPS + 1).float()[:, None].expand(-1, len(KEYS))
    return network.time_tokens(steps)[:, 0].double()


def _places(config: NetworkConfig, size: int) -> list[Tensor]:
    """Where the tokens (tokens, size) of each modality lie on the ground: sines and cosines of their centres, so that
    tokens of one place are alike across modalities; those of a scalar lie nowhere and differ."""
    places = []
    for m, patch in zip(MODALITIES, config.patch_sizes, strict=True):
        if not m.is_image:
            anywhere = torch.randn(math.prod(m.latent_shape[1:]), size, dtype=torch.float64)
            places.append(PLACE * torch.nn.functional.normalize(anywhere, dim=1))
            continue
        side = m.latent_shape[1] // patch
        angles = (torch.arange(side, dtype=torch.float64)[:, None] + 0.5) / side * _frequencies(size)
        axis = torch.cat([angles.sin(), angles.cos()], dim=1)
        down, right = axis[:, None].expand(side, side, -1), axis[None].expand(side, side, -1)
        both = torch.cat([down, right], dim=-1).reshape(side * side, size)
        places.append(PLACE * torch.nn.functional.normalize(both, dim=1))
    return places


def _frequencies(size: int) -> Tensor:
    """Radians a side of the patch, of the sines and cosines in a code of ``size`` numbers."""
    return 2 * math.pi * 2.0 ** torch.linspace(-2, 1.6, size // 4, dtype=torch.float64)
