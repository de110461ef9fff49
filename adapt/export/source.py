"""What is exported: a plain model, or the adapter of a train stage over its base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import ModelLocation, load_config, load_model, local_folder, read_json
from adapt.errors import AdaptError

if TYPE_CHECKING:
    from adapt.training.precision import Precision

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


@dataclass(frozen=True)
class Source:
    """What is exported.

    `model` is the plain checkpoint, with an adapter the one that the train stage wrote. With an adapter, `base` is what
    it was trained over, and `four_bit` says whether that stood in 4 bits. `moved` says why the weights that it trained
    around are not those of the base, and is empty where they are.
    """

    name: str
    model: Path
    adapter: Path | None = None
    base: Path | None = None
    four_bit: bool = False
    moved: str = ""
    precision: Precision | None = None

    def live(self) -> Any:
        """The model as it computed when its training ended: the base, in 4 bits if it was, with the adapter on it."""
        if self.adapter is None or self.base is None or self.precision is None:
            return load_plain(self.model)
        from peft import PeftModel

        from adapt.methods.adapter import grow_for_adapter
        from adapt.methods.lora import Lora
        from adapt.methods.qlora import Qlora

        method = Qlora() if self.four_bit else Lora()
        model = method.load(ModelLocation(str(self.base)), self.precision)
        model = PeftModel.from_pretrained(grow_for_adapter(model, self.adapter), self.adapter)
        return model.to(self.precision.device).eval()


def load_plain(folder: Path) -> Any:
    """A checkpoint for measuring: in its own format on a GPU, in float32 on a CPU."""
    import torch

    cuda = torch.cuda.is_available()
    model = load_model(ModelLocation(str(folder)), "auto" if cuda else torch.float32).eval()
    return model.to("cuda") if cuda else model


def source_of(name: str, location: ModelLocation, stage: Path | None) -> Source:
    """What the name means; `stage` is the folder of the stage that made it, if one did.

    Raises AdaptError where the base of an adapter is gone.
    """
    model = local_folder(location)
    adapter = stage / "adapter" if stage is not None else None
    if adapter is None or not (adapter / ADAPTER_FILES[1]).exists():
        return Source(name, model)
    from adapt.training.precision import choose

    settings = read_json(stage / "manifest.json")["settings"]
    config = read_json(adapter / ADAPTER_FILES[1])
    base = ModelLocation(config["base_model_name_or_path"], config.get("revision"))
    try:
        folder = local_folder(base)
    except AdaptError as error:
        raise AdaptError(f"the base of the adapter of '{name}' is not here: {error}") from error
    method = settings["method"]
    width = load_config(ModelLocation(str(folder))).get_text_config().hidden_size
    return Source(
        name=name,
        model=model,
        adapter=adapter,
        base=folder,
        four_bit=method["kind"] == "qlora" and not _moved(method),
        moved=_moved(method),
        precision=choose(settings["precision"], width),
    )


def _moved(method: dict[str, Any]) -> str:
    """Why the frozen weights of a training were not those of the base."""
    if method["kind"] == "loram":
        return "they were pruned"
    if method.get("init") in ("pissa", "olora", "loftq"):
        return f"init {method['init']} took a part out of them"
    return "refactor put updates into them" if method.get("refactor") else ""
