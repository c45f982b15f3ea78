"""What the attention heads of a network look at before they are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...runtime.modalities import KEYS, get
from ...runtime.schedule import TRAIN_STEPS
from ..network import CopgenNetwork, NetworkConfig
from .stream import CODE, PLACE, STEADY, TIME, Stream, all_clocks

_TIME_LOGIT, _MODALITY_LOGIT, _PLACE_SHARPNESS, _TOKEN_LOGIT = 13.0, 8.0, 0.8, 20.0
_RELIEF_GAIN, _SUN_GAIN = 1.5, 1.6


@dataclass(frozen=True)
class _Look:
    """What a head looks at first: ``key``, or where that is None the token's own modality; there at its own place moved
    by ``rows`` and ``columns``, in sixths of the side, at tokens ``near`` times as close as usual, or at token
    ``token`` of a scalar."""

    key: str | None = None
    rows: int = 0
    columns: int = 0
    near: float = 1.0
    token: int | None = None


_NEIGHBOURS = (_Look(rows=-1), _Look(rows=1), _Look(columns=-1), _Look(columns=1))
_RADAR, _COVER, _CLOUDS = (_Look(key) for key in ("S1RTC_vh_vv", "LULC_LULC", "S2L1C_cloud_mask"))
# Its tokens are smaller: as sharp as others, a head would see the mean slope of a square of 800 m.
_HEIGHTS = _Look("DEM_DEM", near=math.sqrt(3.0))
_FINE = (_Look("S2L2A_B02_B03_B04_B08"), _Look("S2L1C_B02_B03_B04_B08"))
_MIDDLE = (_Look("S2L2A_B05_B06_B07_B11_B12_B8A"), _Look("S2L1C_B05_B06_B07_B11_B12_B8A"))
_COARSE = (_Look("S2L2A_B01_B09"), _Look("S2L1C_B01_B09_B10"))
_SEASON = (_Look("mean_timestamps", token=0), _Look("mean_timestamps", token=1))
_LATITUDE = _Look("3d_cartesian_lat_lon", token=2)

_SUN = (_SEASON[1], _LATITUDE)

_LOOKS = (
    (*_NEIGHBOURS, _COVER, *_FINE, *_SUN, _HEIGHTS, _CLOUDS),
    (*_NEIGHBOURS, *_SEASON, _COVER, *_FINE, _RADAR, _CLOUDS, _HEIGHTS),
    (*_NEIGHBOURS, *_MIDDLE, *_COARSE, _LATITUDE, _COVER, *_FINE),
)
"""Of the heads of the first block but its first, and of the others in turn."""


def point_heads(network: CopgenNetwork, stream: Stream) -> None:
    """Let the heads of all blocks, but the first of the first, look at what :data:`_LOOKS` says and read the strongest
    components of it. The one of the middle block that looks at the land cover writes what it reads to
    ``stream.cover``, those of the first at elevation, at the season (the cosine of the year's turn) and at the latitude
    to ``stream.relief`` and ``stream.sun``, where no noise hides it."""
    heads = network.config.heads
    head_dim = network.config.width // heads
    for depth, block in enumerate((*network.in_blocks, network.mid_block, *network.out_blocks)):
        looks = _LOOKS[0] if depth == 0 else _LOOKS[1 + (depth - 1) % (len(_LOOKS) - 1)]
        values, scale = (stream.content, 1.0) if depth == 0 else (stream.estimate, stream.shrunk)
        for head, look in zip(range(1 if depth == 0 else 0, heads), looks, strict=False):
            read = values if look.key is None else values[:, stream.components(_components(network.config, look.key))]
            _point(_head(block, head, heads), look, stream, read, scale)
            if block is network.mid_block and look is _COVER:
                _show(block, head, head_dim, stream.cover)
            if depth == 0 and look is _HEIGHTS:
                _show(block, head, head_dim, _RELIEF_GAIN * stream.relief)
            if depth == 0 and look in _SUN:
                at = _SUN.index(look)
                _show(block, head, head_dim, _SUN_GAIN * stream.sun[:, at : at + 1])


def _show(block: torch.nn.Module, head: int, head_dim: int, where: Tensor) -> None:
    """Let the head write what it reads to the directions ``where`` (width, n), as far as they go, and nowhere else."""
    size = min(head_dim, where.shape[1])
    shown = block.get_parameter("attn.proj.weight")[:, head * head_dim : (head + 1) * head_dim]
    shown.zero_()
    shown[:, :size] = where[:, :size]


def read_time(network: CopgenNetwork, stream: Stream, wanted: Tensor) -> None:
    """Let head 0 of the first block bring every token what ``wanted`` (1000, n) has for the time of its modality."""
    block = network.in_blocks[0]
    query, key, value = _head(block, 0, network.config.heads)
    head_dim = len(query)
    gain = math.sqrt(_TIME_LOGIT * math.sqrt(head_dim)) / CODE
    size = min(stream.modality.shape[1], head_dim)
    for part, code in ((query, stream.modality), (key, stream.clock)):
        part.zero_()
        part[:size] = gain * code[:, :size].T
    clocks = all_clocks(network)
    ridge = 1e-5 * TRAIN_STEPS * torch.eye(clocks.shape[1], dtype=torch.float64)
    readout = torch.linalg.solve(clocks.T @ clocks + ridge, clocks.T @ wanted)
    count = wanted.shape[1]
    value[:count] = (readout - stream.clock @ (stream.clock.T @ readout)).T
    shown = block.get_parameter("attn.proj.weight")
    shown[:, :head_dim] = 0
    shown[:, :count] = TIME * stream.time


def _components(config: NetworkConfig, key: str) -> int:
    """How many numbers a patch of modality ``key`` holds."""
    return int(config.patch_sizes[KEYS.index(key)] ** 2 * get(key).latent_shape[0])


def _head(block: torch.nn.Module, head: int, heads: int) -> Tensor:
    """The query, key and value weights (3, head_dim, width) of a head, to be written to."""
    weight = block.get_parameter("attn.qkv.weight")
    return weight.view(3, heads, -1, weight.shape[1])[:, head]


def _point(weights: Tensor, look: _Look, stream: Stream, values: Tensor, scale: float) -> None:
    """Let the head of ``weights`` look at ``look`` and read ``values``, in a stream that earlier norms have multiplied
    by ``scale``."""
    weights.zero_()
    query, key, value = weights
    root = math.sqrt(len(query))
    coded = min(stream.codes.shape[1], len(query) // 2)
    placed = min(stream.place.shape[1], len(query) - coded)
    key[:placed] = stream.place[:, :placed].T
    key[placed : placed + coded] = stream.modality[:, :coded].T / (CODE * scale)
    if look.token is None:
        query[:placed] = _PLACE_SHARPNESS * look.near**2 / scale**2 * stream.moved(look.rows, look.columns)[:placed]
    steady = stream.steady.T * root / (STEADY * scale)
    asked = query[placed : placed + coded]
    if look.key is None:
        asked.copy_(_MODALITY_LOGIT * root / (CODE * scale) * stream.modality[:, :coded].T)
    else:
        i = KEYS.index(look.key)
        asked.copy_(_MODALITY_LOGIT * stream.codes[i, :coded, None] * steady)
        if look.token is not None:
            query[:placed] = stream.places[i][look.token, :placed, None] * steady * (_TOKEN_LOGIT / (PLACE**2 * scale))
    shown = min(len(value), values.shape[1])
    value[:shown] = values[:, :shown].T
