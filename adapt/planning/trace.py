"""How much memory a training step takes beside weights and moments: the step itself, made with tensors without values.

torch's fake tensors have shapes, formats and storages but no data, so forward and backward pass run as they would, with
the method's layers, autocast and gradient checkpointing, and every storage is counted from its birth to its end. The
peak is taken in phases (forward pass; loss; the last layer's backward pass; that of the first layers), each of which is
linear in the number of layers; so of a deep model only a few layers are traced.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adapt.methods.outline import UnplannedError

if TYPE_CHECKING:
    from adapt.planning.step import Step

PHASES = ("forward", "loss", "backward", "end")
WHOLE = 6
"""Models of so many layers are traced whole."""
_FEW = (2, 4)
"""Layers of the two traces from which deeper ones follow."""


@dataclass
class Peak:
    """Bytes when a phase takes most: of all new tensors, of gradients and of logits among them."""

    total: float = 0.0
    gradients: float = 0.0
    logits: float = 0.0

    def towards(self, other: Peak, factor: float) -> Peak:
        """This one, with `factor` times its difference from the other."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("total", "gradients", "logits"))
        return Peak(*(max(0.0, own + factor * (own - its)) for own, its in pairs))


@dataclass
class Tracker(TorchDispatchMode):
    """Counts the bytes of all storages that operations make while it is on."""

    height: int
    """Columns by which a tensor of logits is known."""
    phase: str = "forward"
    peaks: dict[str, Peak] = field(default_factory=lambda: {name: Peak() for name in PHASES})

    def __post_init__(self) -> None:
        super().__init__()
        self._live: dict[int, int] = {}
        self.now = self.logits = self.gradients = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note what it made."""
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._live:
            return
        logits = size if tensor.dim() >= 2 and tensor.shape[-1] == self.height else 0
        self._live[key] = size
        self.now, self.logits = self.now + size, self.logits + logits

        def gone() -> None:
            del self._live[key]
            self.now, self.logits = self.now - size, self.logits - logits

        weakref.finalize(storage, gone)
        self._peak()

    def _peak(self) -> None:
        if self.now > self.peaks[self.phase].total:
            self.peaks[self.phase] = Peak(self.now, self.gradients, self.logits)

    def watch(self, model: nn.Module) -> list[Any]:
        """Leave the weights out, and follow a backward pass: gradients as they arrive, the end of the last layer."""
        for tensor in (*model.parameters(), *model.buffers()):
            self._live[tensor.untyped_storage()._cdata] = 0
        handles = [
            parameter.register_post_accumulate_grad_hook(self._arrived)
            for parameter in model.parameters()
            if parameter.requires_grad
        ]
        layers = layers_of(model)
        return [*handles, layers[-1].register_forward_pre_hook(self._mark, with_kwargs=True)]

    def _arrived(self, parameter: torch.Tensor) -> None:
        self.gradients += parameter.grad.untyped_storage().nbytes()

    def _mark(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        if args and args[0].requires_grad and args[0].grad_fn is not None:
            args[0].register_hook(self._passed)

    def _passed(self, gradient: torch.Tensor) -> None:
        self.phase = "end"


def layers_of(model: Any) -> nn.ModuleList:
    """The stack of blocks of a plain or wrapped model."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return plain.base_model.layers


def with_layers(model: Any, count: int) -> AbstractContextManager[None]:
    """The model with `count` of its layers only, evenly chosen, for as long as the block runs."""
    from contextlib import contextmanager

    @contextmanager
    def cut() -> Any:
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        whole, depth = plain.base_model.layers, plain.config.num_hidden_layers
        chosen = [round(index * (len(whole) - 1) / max(1, count - 1)) for index in range(count)]
        plain.base_model.layers = nn.ModuleList(whole[index] for index in chosen)
        plain.config.num_hidden_layers = count
        try:
            yield
        finally:
            plain.base_model.layers, plain.config.num_hidden_layers = whole, depth

    return cut()


def alike(model: Any) -> bool:
    """Whether in all layers the same parameters train and are held in the same format."""
    forms = {
        tuple((name, p.requires_grad, getattr(p, "four_bits", False)) for name, p in layer.named_parameters())
        for layer in layers_of(model)
    }
    return len(forms) == 1


def traced(model: Any, step: Step) -> dict[str, Peak]:
    """The peak of each phase of one forward and backward pass over a model on the meta device.

    Raises UnplannedError for a family whose step cannot be made without values (a mixture of experts).
    """
    try:
        depth = len(layers_of(model))
        if depth <= WHOLE or not alike(model):
            return _trace(model, step)
        fewer, more = (_with(model, step, count) for count in _FEW)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
        family = getattr(model.config, "model_type", type(model).__name__)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UnplannedError(
            f"a step of a model of type '{family}' cannot be made without values ({reason})"
        ) from error
    factor = (depth - _FEW[1]) / (_FEW[1] - _FEW[0])
    return {phase: more[phase].towards(fewer[phase], factor) for phase in PHASES}


def _with(model: Any, step: Step, count: int) -> dict[str, Peak]:
    with with_layers(model, count):
        return _trace(model, step)


def _trace(model: Any, step: Step) -> dict[str, Peak]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    tracker = Tracker(step.height)
    with FakeTensorMode(allow_non_fake_inputs=True), stand_ins(model):
        handles = tracker.watch(model)
        offloading = _offloading() if step.offload else nullcontext()
        with tracker, offloading:
            batch = step.batch()
            with step.autocast():
                hidden = step.hidden(model, batch)
                tracker.phase = "loss"
                loss = step.loss(model, hidden, batch)
            tracker.phase = "backward"
            del hidden, batch
            loss.backward()
            del loss
        for handle in handles:
            handle.remove()
    return tracker.peaks


def _offloading() -> AbstractContextManager[Any]:
    """Saved tensors leave the device: only their shapes stay, until the backward pass asks for them."""

    def pack(tensor: torch.Tensor) -> Any:
        if isinstance(tensor, nn.Parameter) or tensor.numel() < 1024:
            return tensor
        return tensor.shape, tensor.dtype

    def unpack(packed: Any) -> torch.Tensor:
        return packed if isinstance(packed, torch.Tensor) else torch.empty(packed[0], dtype=packed[1])

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


class stand_ins(AbstractContextManager):  # noqa: N801
    """Within a FakeTensorMode, give a meta model's parameters and buffers storages on the CPU, and take them back."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._places: list[Callable[[], None]] = []

    def __enter__(self) -> None:
        made: dict[int, Any] = {}
        for module in self.model.modules():
            for table in (module._parameters, module._buffers):
                for name, value in table.items():
                    if value is not None:
                        fake = made.get(id(value))
                        made[id(value)] = fake = _stand_in(value) if fake is None else fake
                        self._places.append(_back(table, name, value))
                        table[name] = fake

    def __exit__(self, *error: Any) -> None:
        for back in self._places:
            back()


def _stand_in(value: torch.Tensor) -> torch.Tensor:
    fake = torch.empty(value.shape, dtype=value.dtype, device="cpu")
    return nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake


def _back(table: dict[str, Any], name: str, value: Any) -> Callable[[], None]:
    def put() -> None:
        table[name] = value

    return put
