"""Methods, optimisers and export formats: which of them work here, tried on something tiny."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, get_args

from adapt.doctor.finding import Finding


def tried() -> Iterator[Finding]:
    """One line for each method, optimiser and format."""
    from adapt.methods import METHODS
    from adapt.training.optimizers import OPTIMIZERS

    nf4 = _attempted(_nf4)
    yield Finding("4 bits", "NF4 of bitsandbytes", "ok" if nf4 is None else "broken", nf4 or _backend(), _fix(nf4))
    for method in METHODS:
        wrong = nf4 if _quantises(method) else None
        for kind in get_args(method.model_fields["kind"].annotation):
            said = wrong or "needs nothing more"
            yield Finding("methods", kind, "missing" if wrong else "ok", said, "use lora instead" if wrong else "")
    for optimizer in OPTIMIZERS:
        for kind in get_args(optimizer.model_fields["kind"].annotation):
            wrong = _attempted(lambda own=optimizer, kind=kind: _step(own, kind))
            said, _, fix = (wrong or "one step made").partition("; ")
            yield Finding("optimizers", kind, "missing" if wrong else "ok", said, fix)
    yield from _formats()


def _quantises(method: type) -> bool:
    return any("bnb" in name or "quant" in name for name in method.model_fields) or method.__name__ == "Qlora"


def _attempted(attempt: Callable[[], None]) -> str | None:
    """None if it works, else why not, in a line."""
    try:
        attempt()
    except Exception as error:  # whatever a foreign kernel raises means that it does not work here
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return None


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _backend() -> str:
    from importlib.metadata import version

    return f"bitsandbytes {version('bitsandbytes')} quantises and computes on the {_device()}"


def _fix(wrong: str | None) -> str:
    return (
        "" if wrong is None else "reinstall bitsandbytes for this machine: pip install --force-reinstall bitsandbytes"
    )


def _nf4() -> None:
    """Quantise a small layer to NF4, put a vector through it, and compare with the layer itself."""
    import bitsandbytes
    import torch

    device = _device()
    plain = torch.nn.Linear(64, 64, bias=False)
    torch.nn.init.normal_(plain.weight, generator=torch.Generator().manual_seed(0))
    layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    layer.load_state_dict(plain.state_dict())
    inputs = torch.ones(2, 64)
    with torch.no_grad():
        error = (layer.to(device)(inputs.to(device)).cpu() - plain(inputs)).norm() / plain(inputs).norm()
    if not 0 < float(error) < 0.5:
        raise RuntimeError(f"NF4 computes wrong values on the {device} (relative error {float(error):.2g})")


def _step(optimizer: type, kind: str) -> None:
    import torch

    weight = torch.nn.Parameter(torch.ones(64, 64, device=_device()))
    settings: Any = optimizer(kind=kind)
    settings.check(_device())
    made = settings.make([{"params": [weight], "weight_decay": 0.0, "lr": 1e-3}], [], 1e-3)
    weight.grad = torch.ones_like(weight)
    made.step()
    if not torch.isfinite(weight).all() or bool((weight == 1).all()):
        raise RuntimeError("a step moved nothing, or moved weights to nowhere")


def _formats() -> Iterator[Finding]:
    for name in ("safetensors", "adapter"):
        yield Finding("export", name, "ok", "works")
    there = find_spec("gguf") is not None
    fix = "" if there else "pip install 'adapt[gguf]'"
    yield Finding("export", "gguf", "ok" if there else "missing", "works" if there else "gguf is not installed", fix)
