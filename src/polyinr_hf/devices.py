"""What a device multiplies itself, and what it only emulates: decides the dtype of products where nobody says one.

Torch answers another question: `torch.cuda.is_bf16_supported()` is True on a T4, where each product of bfloat16 is
emulated, and a CPU of AVX2 takes bfloat16 and float16 at a quarter of float32's speed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Device:
    """A device, as far as precision depends on it. Tests hand in devices that are not there.

    Args:
        type: As in `torch.device`, such as "cpu" or "cuda".
        name: What its maker calls it.
        products: Dtypes of 16 bits whose products it has instructions for.
        capability: Compute capability of a CUDA device, (8, 0) of an A100; `None` of all others, AMD's among them.
    """

    type: str
    name: str = ""
    products: frozenset[torch.dtype] = frozenset(HALVES)
    capability: tuple[int, int] | None = None

    @classmethod
    def of(cls, device: torch.device | str) -> "Device":
        """The description of a device that is there."""
        device = torch.device(device)
        if device.type == "cpu":
            capabilities = getattr(torch.cpu, "get_capabilities", dict)()
            return cls("cpu", str(capabilities.get("cpu_name", "")), cpu_products(capabilities, os.environ))
        if device.type == "cuda" and torch.version.hip is None:
            return cls.of_cuda(torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device))
        return cls(device.type)  # of which nothing else is known: its own dtypes are left as they are

    @classmethod
    def of_cuda(cls, capability: tuple[int, int], name: str = "") -> "Device":
        """NVIDIA's: bfloat16 since Ampere, float16 since Pascal."""
        halves = [torch.float16] if capability >= (5, 3) else []
        return cls("cuda", name, frozenset([*halves, *([torch.bfloat16] if capability >= (8, 0) else [])]), capability)


def cpu_products(capabilities: Mapping[str, object], environment: Mapping[str, str]) -> frozenset[torch.dtype]:
    """Dtypes of 16 bits that a CPU has products of, as far as oneDNN, which computes them for torch, is let use it.

    Args:
        capabilities: What `torch.cpu.get_capabilities()` says.
        environment: Whose `ONEDNN_MAX_CPU_ISA` may stop at older instructions.
    """
    limit = environment.get("ONEDNN_MAX_CPU_ISA", "").upper()
    unlimited = limit in ("", "ALL", "DEFAULT") or "AMX" in limit or "AVX10" in limit or limit.endswith("_FP16")
    products = []
    if (unlimited or limit.endswith("_BF16")) and any(capabilities.get(n) for n in ("avx512_bf16", "amx_bf16", "bf16")):
        products.append(torch.bfloat16)  # AVX-512 or AMX; Arm's
    if unlimited and any(capabilities.get(name) for name in ("avx512_fp16", "amx_fp16")):
        products.append(torch.float16)
    return frozenset(products)


KNOWN: dict[str, Device] = {}  # devices asked about, by their names in torch


@torch.compiler.assume_constant_result
def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to multiply numbers of `dtype` in on a device: float32 where it would only emulate theirs."""
    if dtype not in HALVES:
        return dtype
    return dtype if dtype in describe(device).products else torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Products in `dtype`, where the device multiplies it; where it only emulates it, and for float32, none is cast."""
    native = product_dtype(dtype, device)
    return torch.autocast(device.type, torch.bfloat16 if native not in HALVES else native, enabled=native in HALVES)


def describe(device: torch.device | str) -> Device:
    """As [`Device.of`], which is asked once for each device."""
    key = str(device)
    if key not in KNOWN:
        KNOWN[key] = Device.of(device)
    return KNOWN[key]


def choose_precision(asked: str, told: str | None, device: Device, scales: bool = True) -> tuple[str, str]:
    """The mixed precision of a training run, "no", "bf16" or "fp16", and why, in words.

    Args:
        asked: By the recipe; "auto" leaves it to the two others.
        told: By `accelerate launch` or its configuration. "no" is what it says without being told, too.
        device: That trains.
        scales: Whether the run can scale gradients, without which "auto" takes no fp16.

    Raises:
        ValueError: for fp16 on a CPU, which Accelerate would compute in float32.
    """
    why = "as the recipe says"
    precision = asked
    if asked == "auto" and told in ("bf16", "fp16"):
        precision, why = told, "as accelerate was told"
    elif asked == "auto":
        precision, why = _best_precision(device)
    if precision == "fp16" and asked == "auto" and not (scales or told == "fp16"):
        precision, why = "no", f"float32, as few pictures are learned without the gradient scaler of a {_kind(device)}"
    if precision == "fp16" and device.type == "cpu":
        raise ValueError(
            "`run.mixed_precision` must be 'auto', 'no' or 'bf16' on a CPU, got 'fp16', which Accelerate computes in "
            "float32."
        )
    if precision == "bf16" and torch.bfloat16 not in device.products:
        why += f"; this {_kind(device)} only emulates bfloat16: run.mixed_precision=auto is many times faster here"
    return precision, why


def _best_precision(device: Device) -> tuple[str, str]:
    kind = _kind(device)
    if device.type in ("cpu", "cuda", "xpu") and torch.bfloat16 in device.products:
        return "bf16", f"which this {kind} multiplies"
    if device.type == "cuda" and torch.float16 in device.products:
        return "fp16", f"with a gradient scaler: this {kind} multiplies float16 and only emulates bfloat16"
    if device.type == "cpu":
        return "no", "float32, as this CPU only emulates products of 16 bits"
    return "no", f"float32, as products of 16 bits are not confirmed on {device.type}"


def _kind(device: Device) -> str:
    return "CPU" if device.type == "cpu" else f"{device.name or device.type}"
