"""What may be asked of a build, and what a flavour refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from copgen_edge.runtime.engines.flavours import Flavour, find_flavour
from copgen_edge.runtime.engines.options import BuildOptions, capabilities, refuse_what_lacks
from copgen_edge.runtime.errors import BackendError, RequestError

CAPABILITIES = SimpleNamespace(__members__={"NONE": 0, "CURRENT": 1, "SM75": 75, "SM89": 89, "SM120": 120})
RTX = Flavour("tensorrt-rtx", "1.7", SimpleNamespace(ComputeCapability=CAPABILITIES))
CLASSIC = Flavour("tensorrt", "10.13", SimpleNamespace())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batch": (2, 1, 4)}, "rising order"),
        ({"batch": (0, 1, 4)}, "from 1 to 256"),
        ({"batch": (1, 4, 1000)}, "from 1 to 256"),
        ({"batch": (1, 4)}, "MIN,OPT,MAX"),
        ({"workspace": 0}, "workspace"),
        ({"hardware_compatibility": "all"}, "ampere-plus"),
        ({"optimization_level": 6}, "0 to 5"),
    ],
)
def test_numbers_that_cannot_be_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        BuildOptions(**wrong)


@pytest.mark.parametrize(
    ("asked", "flavour", "reason"),
    [
        ({"version_compatible": True}, RTX, "lean runtime"),
        ({"hardware_compatibility": "ampere-plus"}, RTX, "--compute-capability"),
        ({"compute_capabilities": ("8.7",)}, RTX, r"7.5, 8.9, 12.0, not for 8.7"),
        ({"compute_capabilities": ("8.9",)}, CLASSIC, "--flavour tensorrt-rtx"),
    ],
)
def test_what_a_flavour_lacks_is_refused_with_the_reason(asked: dict[str, Any], flavour: Flavour, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        refuse_what_lacks(BuildOptions(**asked), flavour)
    assert "\n" not in str(caught.value)


def test_what_a_flavour_has_is_not_refused() -> None:
    refuse_what_lacks(BuildOptions(compute_capabilities=("8.9", "12.0"), weight_streaming=True), RTX)
    refuse_what_lacks(BuildOptions(version_compatible=True, hardware_compatibility="ampere-plus"), CLASSIC)


def test_the_installed_rtx_knows_its_capabilities(rtx: Flavour) -> None:
    assert {"8.6", "8.9"} <= set(capabilities(rtx))
    assert rtx.version.startswith("1.") and rtx.is_rtx


def test_a_flavour_that_is_not_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from copgen_edge.runtime.engines import flavours

    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(flavours, "import_module", absent)
    with pytest.raises(BackendError, match="pip install tensorrt-rtx-cu13-bindings"):
        find_flavour("tensorrt-rtx")
    with pytest.raises(BackendError, match="pip install tensorrt or run"):
        find_flavour()
    monkeypatch.setattr(flavours.platform, "machine", lambda: "aarch64")
    with pytest.raises(BackendError, match="comes with JetPack"):
        find_flavour("tensorrt")


def test_a_stub_and_a_broken_library_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from copgen_edge.runtime.engines import flavours

    def broken(name: str) -> object:
        if name == "tensorrt":
            return SimpleNamespace(__version__="11.4")
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(flavours, "import_module", broken)
    with pytest.raises(BackendError, match=r"stub without a builder; .*libcudart"):
        find_flavour()
    with pytest.raises(BackendError, match="unknown flavour"):
        find_flavour("tensorflow")
