"""A merge as a running model whose weights are set in place: nothing is written while coefficients are tried."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapt.checkpoints import ModelLocation, load_config, load_tokenizer
from adapt.errors import AdaptError
from merge.engine import merged
from merge.parallel import at_once
from merge.policy import write_config, write_tokenizer

if TYPE_CHECKING:
    from merge.formula import Formula
    from merge.planning import Merge
    from merge.writer import Output


class LiveModel:
    """The architecture of a merge's result with its tokenizer; `set` gives it the weights of a merge.

    Every tensor is what `merge.engine.write` would write, rounded to the type of the output; on a CPU it is then held
    in float32. Inputs are read from their files, which stay in the page cache while there is room. A tensor whose
    formula is the one that it was made by is left alone.

    Raises AdaptError where the tensors of the files are not the parameters of the model that transformers makes.
    """

    def __init__(self, merge: Merge, device: str | None = None) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        with tempfile.TemporaryDirectory() as folder:
            self.model, self.tokenizer = _built(merge, Path(folder), self._dtype(merge))
        self.model.to(self.device).eval()
        self._state: dict[str, torch.Tensor] = self.model.state_dict()
        self._formulas: dict[str, Formula] = {}
        _check_names(self.model, self._state, merge)

    def _dtype(self, merge: Merge) -> torch.dtype:
        if self.device == "cpu":
            return torch.float32
        return next(output.dtype for output in merge.outputs if output.dtype.is_floating_point)

    def set(self, merge: Merge) -> int:
        """Give the model the weights of a merge with the same outputs; returns how many tensors were made anew.

        Raises MergeError as writing does.
        """
        stale = [output for output in merge.outputs if self._formulas.get(output.name) != _formula(merge, output)]
        for output in stale:
            self._formulas.pop(output.name, None)
        at_once(lambda output: self._fill(merge, output), sorted(stale, key=lambda output: -output.size))
        self._formulas |= {output.name: _formula(merge, output) for output in stale}
        return len(stale)

    def _fill(self, merge: Merge, output: Output) -> None:
        target = self._state[output.name]
        there = target.device.type == "cpu"
        flat = (target if there else torch.empty(output.shape, dtype=output.dtype)).view(-1)
        for place, block in merged(merge, output):
            first = place // output.dtype.itemsize
            flat[first : first + block.numel()].copy_(block.reshape(-1))
        if not there:
            target.copy_(flat.view(output.shape))


def _formula(merge: Merge, output: Output) -> Formula:
    return merge.parts[output.name].formula


def _built(merge: Merge, folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer from the settings that the written merge would have; the weights are still open."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM, GenerationConfig

    chat = (merge.chat, merge.vocabularies[merge.chat.name])
    write_config(folder, merge.anchor, chat, merge.rows, {"tie_word_embeddings": merge.tied})
    write_tokenizer(folder, merge.anchor, merge.chat, merge.rows)
    location = ModelLocation(str(folder))
    with init_empty_weights():  # random numbers for weights that are set anyway would take longer than these
        model = AutoModelForCausalLM.from_config(load_config(location), dtype=dtype)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.empty_like(parameter, device="cpu"), requires_grad=False))
    model.tie_weights()
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, load_tokenizer(location)


def _check_names(model: Any, state: Mapping[str, torch.Tensor], merge: Merge) -> None:
    written = {output.name: output.shape for output in merge.outputs}
    head = model.get_output_embeddings()
    tied = {name for name, tensor in state.items() if head is not None and tensor.data_ptr() == head.weight.data_ptr()}
    strange = [name for name, shape in written.items() if name not in state or tuple(state[name].shape) != shape]
    open_names = [name for name in state if name not in written and not (merge.tied and name in tied)]
    if strange or open_names:
        raise AdaptError(
            f"'{[*strange, *open_names][0]}' is not named alike in the files and in {type(model).__name__}, so weights "
            "cannot be set in place; merge with fixed coefficients instead"
        )
