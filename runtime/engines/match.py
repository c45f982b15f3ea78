"""Which engine of a bundle's cache may be opened on this machine, decided by its record before the file is."""

from __future__ import annotations

from pathlib import Path

from ..backends.cuda_probe import Gpu
from ..bundle import ALL_PRECISIONS, Bundle
from ..components import STEP
from ..errors import BackendError
from .cache import FOLDER, engine_path, misfit, record_path
from .flavours import Flavour
from .record import UPDATE, EngineRecord

PORTABLE = "portable"


def usable_engine(
    bundle: Bundle, component: str, precision: str, flavour: Flavour, gpu: Gpu
) -> tuple[Path, EngineRecord]:
    """The engine of ``component`` in ``precision`` that ``flavour`` can run on ``gpu``, and its record.

    Raises :class:`BackendError` that tells for each engine there is what was found and expected, and how to build one;
    :class:`BundleError` where the bundle itself lacks the precision.
    """
    asked = precision
    if component != UPDATE:
        precision = bundle.stored_precision(component, precision)
    build = f"run 'copgen-edge build {bundle.root} --precision {asked} --flavour {flavour.name}' on this machine"
    told = []
    for path in sorted(bundle.root.glob(f"{FOLDER}/*/{engine_path(Path(), component, precision).name}")):
        try:
            record = EngineRecord.read(record_path(path))
        except BackendError as error:
            told.append(str(error))
            continue
        # The machine first: what cannot run here need not be read.
        wrong = ", ".join(differences_to_machine(record, flavour, gpu)) or misfit(bundle, path, record)
        if wrong is None:
            return path, record
        told.append(f"{path.relative_to(bundle.root)}: {wrong}")
    found = "; ".join(told) or "the cache has none"
    raise BackendError(f"no engine of {component} in {precision} can run here ({found}); {build}")


def built_precisions(bundle: Bundle) -> tuple[str, ...]:
    """Precisions of which the cache has engines of the network, whether they can run here or not."""
    return tuple(p for p in ALL_PRECISIONS if any(bundle.root.glob(f"{FOLDER}/*/{engine_path(Path(), STEP, p).name}")))


def differences_to_machine(record: EngineRecord, flavour: Flavour, gpu: Gpu) -> list[str]:
    """Why ``flavour`` on ``gpu`` cannot run the engine of ``record``, in words; empty where it can."""
    wrong = []
    if record.flavour != flavour.name:
        wrong.append(f"found flavour {record.flavour}, expected {flavour.name}")
    elif not _runs_version(record, flavour.version):
        wrong.append(f"found an engine of version {record.version}, expected {flavour.version}")
    capability = gpu.compute_capability
    if record.gpu == PORTABLE:
        if record.capability != "any" and capability not in record.capability.split("+"):
            wrong.append(f"found compute capabilities {record.capability}, expected {capability}")
        return wrong
    compatible = record.options.hardware_compatibility
    newer = compatible == "ampere-plus" and gpu.capability >= (8, 0)
    alike = compatible == "same-compute-capability" and record.capability == capability
    if not newer and not alike and _gpu_of(record) != (gpu.name, capability, gpu.processors):
        found, here = _gpu_of(record), (gpu.name, capability, gpu.processors)
        wrong.append("found an engine of {} ({}, {} processors), expected {} ({}, {} processors)".format(*found, *here))
    return wrong


def _gpu_of(record: EngineRecord) -> tuple[str, str, int]:
    """Boards of one name and capability differ in their processors, and an engine is made for their number."""
    return record.gpu, record.capability, record.processors


def _runs_version(record: EngineRecord, version: str) -> bool:
    """A version-compatible engine runs on later versions of its own major version, and one of 10.x on 11.x."""
    if record.version == version:
        return True
    built, here = (tuple(int(part) for part in text.split(".")[:2]) for text in (record.version, version))
    return record.options.version_compatible and built <= here and here[0] - built[0] <= 1
