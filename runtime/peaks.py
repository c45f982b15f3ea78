"""What GPUs can do at most, by the name that the driver gives them.

Rates are dense, where data sheets often give those of sparse matrices, twice as high. fp16 is that of the tensor cores
in their fastest mode (on a GeForce, accumulating in fp16), fp32 that of the CUDA cores, without TF32.

A GPU that is not here has no peak: nothing is derived from another one's. The Jetson modules are left out on purpose:
the driver has one name for several of them ("Orin" for the whole series), and the power mode decides how many
processors run and at what clock. A slice of a GPU (MIG) has another name than the GPU, and so no peak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Peak:
    """``flops``: operations a second by precision, a multiplication and an addition being two; ``bandwidth``: bytes a
    second of the GPU's memory."""

    flops: Mapping[str, float]
    bandwidth: float


def _peak(fp16: float, fp32: float, bandwidth: float) -> Peak:
    """From TFLOP/s, TFLOP/s and GB/s, as data sheets have them."""
    return Peak(MappingProxyType({"fp16": fp16 * 1e12, "fp32": fp32 * 1e12}), bandwidth * 1e9)


PEAKS: Mapping[str, Peak] = MappingProxyType(
    {
        # NVIDIA H200 Tensor Core GPU data sheet, column H200 SXM (fp16: 1,979 sparse).
        "NVIDIA H200": _peak(989.5, 67.0, 4800),
        # NVIDIA H100 Tensor Core GPU data sheet, column H100 SXM (fp16: 1,979 sparse).
        "NVIDIA H100 80GB HBM3": _peak(989.5, 67.0, 3350),
        # NVIDIA A100 Tensor Core GPU data sheet, columns A100 80GB SXM and PCIe.
        "NVIDIA A100-SXM4-80GB": _peak(312.0, 19.5, 2039),
        "NVIDIA A100 80GB PCIe": _peak(312.0, 19.5, 1935),
        # NVIDIA L4 Tensor Core GPU data sheet (fp16: 242 sparse).
        "NVIDIA L4": _peak(121.0, 30.3, 300),
        # NVIDIA L40S data sheet (fp16: 362.05 dense, 733 sparse).
        "NVIDIA L40S": _peak(362.05, 91.6, 864),
        # NVIDIA Ada GPU architecture white paper, appendix A (fp16: with fp16 accumulation, dense).
        "NVIDIA GeForce RTX 4090": _peak(330.3, 82.6, 1008),
        # NVIDIA RTX 6000 Ada Generation data sheet (tensor performance: 1,457 in FP8, sparse; fp16 is a quarter of it).
        "NVIDIA RTX 6000 Ada Generation": _peak(364.25, 91.1, 960),
        # NVIDIA RTX A2000 and A2000 12GB data sheets (tensor performance: 63.9 in fp16, sparse).
        "NVIDIA RTX A2000": _peak(31.95, 8.0, 288),
        "NVIDIA RTX A2000 12GB": _peak(31.95, 8.0, 288),
    }
)
"""Rows by the driver's name (cuDeviceGetName)."""
