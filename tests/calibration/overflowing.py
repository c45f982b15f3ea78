"""A model that is finite in float32 and overflows in half, the bundle of it, and trajectories to measure it on."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from copgen_edge.calibration.trajectories import MANIFEST, Entry, RecordedRun, manifest_text
from copgen_edge.copgen_ref.files import AUTOENCODER_FOLDERS, find_checkpoint
from copgen_edge.copgen_ref.state_dicts import read_state_dict
from copgen_edge.runtime.bundle import Bundle, FileRecord, sha256, write_manifest
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.modalities import KEYS
from copgen_edge.runtime.parity import probe_inputs
from onnx import numpy_helper
from safetensors.numpy import save_file

DECODER = "decoder_DEM_DEM"
FACTOR = 2.0**20
"""A power of two: float32 loses nothing by it."""

BLOCK = "network.in_blocks.1"
RESIDUAL = "autoencoder.decoder.up.0.block.2"
UNITS = {STEP: (BLOCK,), DECODER: (RESIDUAL,)}
"""Where it overflows: in the hidden layer of an MLP, whose second layer scales back, and in a residual stream, which
the normalisation after it tames."""

SCALES = {
    STEP: {f"{BLOCK}.mlp.fc1.weight": FACTOR, f"{BLOCK}.mlp.fc1.bias": FACTOR, f"{BLOCK}.mlp.fc2.weight": 1 / FACTOR},
    DECODER: {f"{RESIDUAL}.conv2.weight": FACTOR, f"{RESIDUAL}.conv2.bias": FACTOR},
}


def write_overflowing_checkpoint(checkpoint: Path, folder: Path) -> Path:
    """A copy of ``checkpoint``, with the elevation's autoencoder alone, that overflows in :data:`UNITS`."""
    keep = AUTOENCODER_FOLDERS["DEM_DEM"]
    shutil.copytree(
        checkpoint, folder, ignore=lambda _, names: [n for n in names if n.endswith("_latent_8") and n != keep]
    )
    files = find_checkpoint(folder)
    for component, path in ((STEP, files.network_file()), (DECODER, files.autoencoder_file("DEM_DEM"))):
        state = {name: value.clone() for name, value in read_state_dict(path).items()}
        for name, scale in SCALES[component].items():
            state[name.partition(".")[2]] *= scale
        torch.save(state, path)
    return folder


def write_overflowing_bundle(bundle: Path, checkpoint: Path, folder: Path) -> Path:
    """What an export of the overflowing ``checkpoint`` in fp32 would give, of the components of :data:`UNITS`: the
    same factors in the graphs of ``bundle``, which is of the checkpoint that it was made from."""
    opened = Bundle.open(bundle)
    components = {}
    (folder / "onnx").mkdir(parents=True)
    (folder / "reference").mkdir()
    for name, scales in SCALES.items():
        component = opened.component(name)
        variant = component.precisions["fp32"]
        path = folder / variant.files[0].path
        model = onnx.load(bundle / variant.files[0].path)
        scale_graph(model, scales)
        onnx.save(model, path)
        shutil.copyfile(bundle / component.reference.path, folder / component.reference.path)
        components[name] = replace(
            component, precisions={"fp32": replace(variant, files=(FileRecord.of(folder, path),))}
        )
    files = find_checkpoint(checkpoint)
    source = {
        "files": [
            {"path": path.relative_to(files.root).as_posix(), "bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in (files.network_file(), files.autoencoder_file("DEM_DEM"))
        ]
    }
    write_manifest(folder, replace(opened.manifest, components=components, source=source))
    return folder


def scale_graph(model: onnx.ModelProto, scales: Mapping[str, float]) -> None:
    """Multiply the initializers ``scales``; the weight of a linear layer, whose name is lost, is what the MatMul before
    the addition of its bias reads."""
    makers = {output: node for node in model.graph.node for output in node.output}
    for name, scale in scales.items():
        found = [tensor for tensor in model.graph.initializer if tensor.name == name]
        if not found:
            bias = name.replace(".weight", ".bias")
            (added,) = [node for node in model.graph.node if bias in node.input]
            (product,) = [makers[value] for value in added.input if value in makers]
            found = [tensor for tensor in model.graph.initializer if tensor.name == product.input[1]]
        (tensor,) = found
        scaled = (numpy_helper.to_array(tensor) * np.float32(scale)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))


def write_trajectories(folder: Path, bundle: Path, components: Iterable[str], rows: int = 2) -> Path:
    """Trajectories of ``bundle`` with ``rows`` rows of made-up inputs of each of ``components``."""
    folder.mkdir()
    arrays = {}
    entries = []
    for component in components:
        for name, values in probe_inputs(component, rows, 7).items():
            arrays[f"{component}/{name}"] = values.astype(np.float32 if name == "timesteps" else np.float16)
        when = (0, 500.0) if component == STEP else (None, None)
        entries += [Entry(component, row, row, *when) for row in range(rows)]
    file = folder / "run.safetensors"
    save_file(arrays, file)
    run = RecordedRun("probe", 7, dict.fromkeys(KEYS, "generated"), FileRecord.of(folder, file), tuple(entries))
    opened = Bundle.open(bundle)
    text = manifest_text(opened.digest, opened.manifest.model, "dpmpp-3s", 4, [run])
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return folder
