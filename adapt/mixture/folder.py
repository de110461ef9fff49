"""A mixture as one folder: gates, adapters that peft loads, tokenizer; and back into a model with one call.

mixture.json             what it is, over which base, which adapters in which order, the router's settings
gates.safetensors        what the gates learned, `<layer>.<tensor>`; none where they learn nothing
adapters/<name>/         peft's adapter_model.safetensors and adapter_config.json
tokenizer.json and kin   the tokenizer of the base
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from adapt.checkpoints import ModelLocation, load_model, load_tokenizer, read_json
from adapt.errors import AdaptError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from adapt.mixture.bases import Base
    from adapt.mixture.mixture import Mixture
    from adapt.mixture.routers import RouterChoice
    from adapt.training.precision import Precision

MIXTURE_FILE, GATES_FILE, ADAPTERS = "mixture.json", "gates.safetensors", "adapters"
FORMAT = 1
_KEYS = ("kind", "base", "adapters", "router", "gate")


def is_mixture(folder: Path) -> bool:
    """Whether a folder holds a mixture."""
    return (folder / MIXTURE_FILE).is_file()


def save_mixture(model: Any, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write a model's mixture. LoRA that did not train are written as the files that they came from."""
    from adapt.mixture.adapters import write_part
    from adapt.mixture.mixture import Mixture, factors_of, mixture_in

    folder, mixture = Path(folder), mixture_in(model)
    if not isinstance(mixture, Mixture):
        from adapt.mixture.domain_mixture_folder import save_domain_mixture

        save_domain_mixture(model, tokenizer, folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in mixture.parts.items():
        write_part(part, factors_of(model, name) if part.folder is None else {}, folder / ADAPTERS / name)
    save_gates(model, folder)
    tokenizer.save_pretrained(folder)
    text = json.dumps(_described(mixture), ensure_ascii=False, indent=1)
    (folder / MIXTURE_FILE).write_text(text + "\n", encoding="utf-8")


def save_gates(model: Any, folder: Path) -> None:
    """Write what the gates of a model learned, if anything."""
    from safetensors.torch import save_file

    from adapt.mixture.mixture import routers_of

    gates = {
        f"{path}.{name}": tensor.detach().float().cpu().contiguous()
        for path, router in routers_of(model).items()
        for name, tensor in router.state_dict().items()
    }
    if gates:
        save_file(gates, folder / GATES_FILE, metadata={"format": "pt"})


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A place to write to that becomes `folder` at the end of the block. Raises AdaptError where that is there."""
    if folder.exists():
        raise AdaptError(f"'{folder}' is there already; nothing was overwritten, give another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _described(mixture: Mixture) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": "lora",
        "base": mixture.base.asdict(),
        "adapters": list(mixture.names),
        "router": mixture.router.model_dump(mode="json"),
        "gate": mixture.gate,
        "quantised": mixture.quantised,
        "domains": mixture.domains,
        "closed": sorted(mixture.closed),
    }


def read_mixture(folder: Path) -> dict[str, Any]:
    """A mixture's description. Raises AdaptError for a folder without one, of another kind or format."""
    if not is_mixture(folder):
        raise AdaptError(f"'{folder}' holds no mixture (no {MIXTURE_FILE})")
    found = read_json(folder / MIXTURE_FILE)
    missing = [key for key in _KEYS if key not in found] if isinstance(found, dict) else list(_KEYS)
    if missing:
        raise AdaptError(f"'{folder / MIXTURE_FILE}' describes no mixture of LoRA adapters: it lacks '{missing[0]}'")
    if found["kind"] not in ("lora", "bottleneck") or found.get("format") != FORMAT:
        raise AdaptError(
            f"'{folder / MIXTURE_FILE}' is of kind '{found['kind']}' and format {found.get('format')}; "
            f"a mixture is of kind 'lora' or 'bottleneck' and format {FORMAT}"
        )
    return found


def load_mixture(
    folder: str | Path, base: str | Path | None = None, dtype: torch.dtype | str = "auto", **arguments: Any
) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model with a mixture in it, and its tokenizer; `generate` works as with any other model.

    `base` (empty: the one that the mixture was made over) is anything that transformers loads; where the mixture
    trained over 4 bits it is quantised as then. `dtype` ("auto": the stored format) and other arguments go to
    transformers. Raises AdaptError where base and mixture do not belong together.
    """
    from adapt.mixture.assembly import mixture_of
    from adapt.mixture.bases import Base

    folder = Path(folder)
    found = read_mixture(folder)
    if found["kind"] == "bottleneck":
        from adapt.mixture.domain_mixture_folder import load_domain_mixture

        return load_domain_mixture(folder, found, base, dtype, **arguments)
    location = ModelLocation(found["base"]["path"], found["base"]["revision"])
    location = location if base is None else ModelLocation(str(base))
    own = Base.of(location)
    check_digest(folder, found["base"], own)
    tokenizer = load_tokenizer(ModelLocation(str(folder)))
    model = stored_base(location, found.get("quantised"), dtype, **arguments)
    mixture_of(
        model,
        {name: part_of(folder, name, model) for name in found["adapters"]},
        router_of(folder, found["router"]),
        base=own,
        gate=found["gate"],
        tokenizer=tokenizer,
        domains=found.get("domains"),
        closed=found.get("closed", ()),
        quantised=found.get("quantised"),
    )
    load_gates(model, folder)
    return model.eval(), tokenizer


def check_digest(folder: Path, made_over: Mapping[str, Any], base: Base) -> None:
    """Raise AdaptError where the mixture in a folder was made over another base."""
    if base.digest != made_over["digest"]:
        raise AdaptError(
            f"the mixture in '{folder}' was made over '{made_over['path']}', and the weights of '{base.path}' are "
            "others; give its base"
        )


def stored_base(location: ModelLocation, quantised: str | None, dtype: Any, **arguments: Any) -> Any:
    """The base of a mixture that is loaded: in `dtype`, or quantised as when the mixture trained."""
    if quantised:
        return load_base(location, _precision(dtype), quantised, **arguments)
    return load_model(location, dtype, **arguments)


def part_of(folder: Path, name: str, model: Any) -> Any:
    """An adapter of the folder. (Its base is the mixture's, which was compared already.)"""
    from adapt.mixture.adapters import Part, read_factors
    from merge.adapters import CONFIG
    from merge.errors import MergeError

    own = folder / ADAPTERS / name
    try:
        return Part(read_factors(name, own, model), read_json(own / CONFIG), own)
    except MergeError as error:
        raise AdaptError(f"adapter '{name}': {error}") from error


def router_of(folder: Path, settings: Mapping[str, Any]) -> RouterChoice:
    """The router that a mixture's file describes. Raises AdaptError for settings that no router has."""
    from adapt.mixture.routers import AnyRouter

    try:
        return TypeAdapter(AnyRouter).validate_python(settings)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]
        where = ".".join(map(str, reason["loc"]))
        raise AdaptError(f"'{folder / MIXTURE_FILE}': router.{where}: {reason['msg']}") from error


def _precision(dtype: torch.dtype | str) -> Precision:
    """Where a quantised base is put: on a GPU if there is one."""
    import torch

    from adapt.training.precision import Precision

    return Precision(torch.device("cuda" if torch.cuda.is_available() else "cpu"), dtype != torch.float32)


def load_base(location: ModelLocation, precision: Precision, quantised: str | None, **arguments: Any) -> Any:
    """The base as a mixture stands over it: in the run's format, or with its linear layers in NF4."""
    if quantised is None:
        return load_model(location, precision.dtype, **arguments)
    from adapt.methods.qlora import Qlora

    model = Qlora().load(location, precision, **arguments)
    model.is_quantized = False  # its adapters are not peft's: a trainer would take it for one that cannot train
    return model


def load_gates(model: Any, folder: Path) -> None:
    """Put what the gates learned into them. Raises AdaptError for a tensor too many, too few, or of another shape."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from adapt.mixture.mixture import routers_of

    path = folder / GATES_FILE
    try:
        given = load_file(path) if path.is_file() else {}
    except (SafetensorError, OSError) as error:
        raise AdaptError(f"cannot read '{path}': {error}") from error
    own = {f"{p}.{name}": t for p, router in routers_of(model).items() for name, t in router.state_dict().items()}
    for name in sorted(own.keys() ^ given.keys()):
        what = "lacks" if name in own else "holds a tensor that no gate takes:"
        raise AdaptError(f"'{path}' {what} '{name}'; the mixture's files do not belong together")
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != given[name].shape:
                raise AdaptError(f"'{path}': '{name}' is {list(given[name].shape)}, not {list(tensor.shape)}")
            tensor.copy_(given[name])
