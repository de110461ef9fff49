"""Which device and which number format a run computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from adapt.errors import AdaptError

if TYPE_CHECKING:
    import torch

PrecisionChoice = Literal["auto", "bf16", "fp32"]

_WIDE_ENOUGH = 128
"""Hidden size from which bf16 pays on a CPU with bf16 matrix units; below, casting costs more than it saves.

Measured with AMX, one thread, four layers, tokens a second in float32 and bf16: 64 wide 24k and 17k, 128 wide 8.1k and
9.9k, 192 wide 4.4k and 6.5k, 512 wide 0.9k and 1.7k."""


@dataclass(frozen=True)
class Precision:
    """The device, and whether matrix products run in bfloat16 (under autocast; what trains stays in float32)."""

    device: torch.device
    bf16: bool

    @property
    def dtype(self) -> torch.dtype:
        """The format in which weights that do not train are held."""
        import torch

        return torch.bfloat16 if self.bf16 else torch.float32

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which the model computes."""
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()


def _cpu_has_bf16_units() -> bool:
    import torch

    return torch.cpu.get_capabilities().get("amx_bf16", False) if hasattr(torch.cpu, "get_capabilities") else False


def choose(choice: PrecisionChoice, hidden_size: int) -> Precision:
    """The device at hand, and bf16 where it is asked for or where the hardware is good at it.

    On a GPU `auto` means bf16 from compute capability 8.0 on; on a CPU only with AMX and a model wide enough to gain.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and torch.cuda.current_device():  # one of several processes, see adapt.launch
        device = torch.device("cuda", torch.cuda.current_device())
    if choice != "auto":
        return Precision(device, choice == "bf16")
    if device.type == "cuda":
        return Precision(device, torch.cuda.get_device_capability()[0] >= 8)
    return Precision(device, hidden_size >= _WIDE_ENOUGH and _cpu_has_bf16_units())


def caution(precision: Precision) -> str | None:
    """A word where bf16 is asked for on a CPU without units for it (2048 x 192 x 512 took 47 times as long as fp32)."""
    if precision.device.type == "cpu" and precision.bf16 and not _cpu_has_bf16_units():
        return "  precision bf16 on a CPU without bf16 units can be many times slower than fp32; auto would take fp32"
    return None


def attention(choice: Literal["auto", "sdpa", "flash_attention_2"], precision: Precision, config: Any) -> str:
    """The attention kernel by transformers' name, for a model with this configuration.

    `auto` takes the fastest that machine and model family both have. Raises AdaptError where the one that is asked for
    cannot run.
    """
    from transformers.utils import is_flash_attn_2_available

    can = precision.device.type == "cuda" and precision.bf16 and is_flash_attn_2_available()
    if choice == "flash_attention_2" and not can:
        raise AdaptError(
            "attention 'flash_attention_2' needs a CUDA GPU, bf16 and the package flash-attn; use attention: sdpa"
        )
    flash, sdpa = (family_has(config, kernel) for kernel in ("_supports_flash_attn", "_supports_sdpa"))
    if (choice == "sdpa" and not sdpa) or (choice == "flash_attention_2" and not flash):
        raise AdaptError(f"attention '{choice}' is none that models of type '{config.model_type}' have; use auto")
    if can and flash and choice != "sdpa":
        return "flash_attention_2"
    return "sdpa" if sdpa else "eager"


def family_has(config: Any, kernel: str) -> bool:
    """Whether transformers' model of a family has a kernel; one that comes with its own code is taken to have it."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return known is None or bool(getattr(known, kernel, False))


def check_offloading(wanted: bool, device: str) -> None:
    """Raises AdaptError where activations are to leave a GPU that is not there."""
    if wanted and device != "cuda":
        raise AdaptError(
            "activation_offloading moves activations from a CUDA GPU to main memory, and there is no GPU here; "
            "leave it out, or set gradient_checkpointing: true to save memory"
        )
