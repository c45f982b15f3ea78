"""What is written beside every engine: all that decides whether it may be used, checked before it is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType

from ..backends.update import UPDATE_MODEL
from ..bundle import Bundle, sha256
from ..errors import BackendError, RequestError
from .options import BuildOptions

SCHEMA_VERSION = 1

UPDATE, UPDATE_PRECISION = "solver_update", "fp32"
"""The engine of the solver's update, which every bundle's network needs beside it."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "component precision flavour version gpu capability sha256 timing_cache": (str,),
    "processors bytes": (int,),
    "seconds": (int, float),
    "peak_bytes attention blocks": (int, NoneType),
    "onnx": (dict,),
}


@dataclass(frozen=True)
class EngineRecord:
    """``onnx``: SHA-256 by path of the files it was built from. ``gpu``: name of the GPU it is bound to, or
    ``portable``; ``capability``: compute capabilities, such as ``8.7``, or ``any``; ``processors``: the GPU's
    multiprocessors, 0 for a portable engine. ``seconds`` and ``peak_bytes`` are the build's; ``attention`` counts fused
    attentions, and ``blocks`` is how many there are (None but for the network).
    """

    component: str
    precision: str
    onnx: Mapping[str, str]
    flavour: str
    version: str
    gpu: str
    capability: str
    processors: int
    options: BuildOptions
    bytes: int = 0
    sha256: str = ""
    seconds: float = 0.0
    peak_bytes: int | None = None
    attention: int | None = None
    blocks: int | None = None
    timing_cache: str = "none"
    schema_version: int = SCHEMA_VERSION

    @property
    def key(self) -> EngineRecord:
        """The record without what only the build tells: two records with equal keys are of equal engines."""
        return replace(
            self, bytes=0, sha256="", seconds=0.0, peak_bytes=None, attention=None, blocks=None, timing_cache="none"
        )

    def _check_types(self) -> None:
        """Raise :class:`ValueError` for what JSON allows and a record does not."""
        for names, kinds in _TYPES.items():
            for name in names.split():
                value = getattr(self, name)
                if isinstance(value, bool) or not isinstance(value, kinds):
                    raise ValueError(f"{name} is {value!r}")
        if not _version(self.version):
            raise ValueError(f"version is {self.version!r}")

    def to_json(self) -> str:
        """The text of the file beside the engine."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: Path) -> EngineRecord:
        """The record in ``path``; :class:`BackendError` for anything else."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema version {content['schema_version']!r}, this program reads {SCHEMA_VERSION}")
            found = cls(**{**content, "options": BuildOptions.from_json(content["options"])})
            found._check_types()
            return found
        except OSError as error:
            raise BackendError(f"{path} cannot be read ({error.strerror}); run 'copgen-edge build' again") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RequestError) as error:
            raise BackendError(f"{path} is no engine record ({error}); run 'copgen-edge build' again") from None


def _version(text: str) -> bool:
    return all(part.isdigit() for part in text.split(".")[:2])


def onnx_hashes(bundle: Bundle, component: str, precision: str) -> dict[str, str]:
    """SHA-256 by path of the files of a component, as the manifest has them; the solver's update is no part of the
    bundle, but of this program."""
    if component == UPDATE:
        return {UPDATE_MODEL.name: sha256(UPDATE_MODEL)}
    return {record.path: record.sha256 for record in bundle.variant(component, precision).files}


def differences(found: EngineRecord, expected: EngineRecord) -> list[str]:
    """What keeps an engine from being the one that is expected, in words; empty where it is."""
    told = []
    for name, value in asdict(expected.key).items():
        other = asdict(found.key)[name]
        if name == "onnx" and other != value:
            told.append("it was built from other ONNX files")
        elif name == "options":
            told += [f"{option} is {other[option]}, not {wanted}" for option, wanted in value.items()
                     if other[option] != wanted]  # fmt: skip
        elif other != value:
            told.append(f"{name} is {other}, not {value}")
    return told
