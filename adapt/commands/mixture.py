"""`adapt mixture`: put adapters into one folder with gates over them, let one join or leave, look at one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapt.commands.errors import plain_errors
from adapt.commands.mixture_deploy import collapse
from adapt.errors import AdaptError

if TYPE_CHECKING:
    from adapt.mixture.routers import RouterChoice

mixture_app = typer.Typer(
    help="Several adapters beside one model, weighed by gates at every token.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

mixture_app.command(epilog="Example: adapt mixture collapse runs/a/gates/k/mixture -o dense --text text.txt")(collapse)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The mixture's folder.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The new folder.", show_default=False)]
Base = Annotated[
    str | None, typer.Option(metavar="MODEL", help="The base, where it lies elsewhere by now.", show_default=False)
]
NamedAdapter = Annotated[
    str, typer.Argument(metavar="NAME=ADAPTER", help="A name, and a folder of peft.", show_default=False)
]


@mixture_app.command(
    epilog="Example: adapt mixture new dates=runs/a numbers=runs/b --base models/en --router arrow -o m"
)
def new(
    adapters: Annotated[list[str], typer.Argument(metavar="NAME=ADAPTER...", help="Names, and folders of peft.")],
    base: Annotated[str, typer.Option(metavar="MODEL", help="The model that they were trained over.")],
    output: Output,
    router: Annotated[
        str,
        typer.Option(metavar="ROUTER", help="arrow, enforced, or {kind: arrow, k: 2}: what needs no training."),
    ] = "arrow",
) -> None:
    """Put adapters into a mixture whose gates need no training.

    Gates that are trained come from a recipe: a train stage with method mixture_of_lora.
    """
    with plain_errors():
        from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
        from adapt.mixture.assembly import mixture_of
        from adapt.mixture.bases import Base as MixtureBase
        from adapt.mixture.folder import save_mixture, written_whole

        choice, folders = _router(router), _named(adapters)
        if choice.learns or choice.kind == "nearest_key":
            raise AdaptError(f"--router '{router}': its gates have to be trained; use a recipe, or arrow or enforced")
        location = ModelLocation(base)
        with written_whole(output) as place:
            tokenizer, found = load_tokenizer(location), MixtureBase.of(location)
            model = mixture_of(load_model(location), folders, choice, base=found, tokenizer=tokenizer)
            save_mixture(model, tokenizer, place)
        typer.echo(f"wrote {output}")


@mixture_app.command(epilog="Example: adapt mixture add runs/mix/mixture places=runs/places/adapter -o mixture2")
def add(
    folder: Folder,
    adapter: NamedAdapter,
    output: Output,
    weight: Annotated[
        bool, typer.Option("--open", help="Let the gates, untrained as they are for it, give it weight at once.")
    ] = False,
    base: Base = None,
) -> None:
    """Let one more adapter join a mixture.

    It has no weight at first: the new mixture computes what the old one does.
    """
    with plain_errors():
        from adapt.mixture.change import add_adapter, open_adapter

        ((name, place),) = _named([adapter]).items()

        def change(model: Any, tokenizer: Any) -> None:
            add_adapter(model, name, place, tokenizer)
            if weight:
                open_adapter(model, name)

        _changed(folder, output, base, change)


@mixture_app.command(epilog="Example: adapt mixture prune runs/mix/mixture places -o smaller")
def prune(
    folder: Folder,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The adapter that leaves.", show_default=False)],
    output: Output,
    base: Base = None,
) -> None:
    """Take an adapter out of a mixture."""
    with plain_errors():
        from adapt.mixture.change import prune_adapter

        _changed(folder, output, base, lambda model, tokenizer: prune_adapter(model, name))


@mixture_app.command(epilog="Example: adapt mixture info runs/mix/mixture")
def info(folder: Folder) -> None:
    """Say what a mixture consists of."""
    with plain_errors():
        from adapt.display import Display
        from adapt.mixture.folder import read_mixture

        found = read_mixture(folder)
        rows = []
        for name in found["adapters"]:
            domains = [domain for domain, own in found.get("domains", {}).items() if own == name]
            state = "no weight yet" if name in found.get("closed", ()) else ""
            rows.append([name, _size(folder, found["kind"], name), ", ".join([name, *domains]), state])
        router = ", ".join(f"{key} {value}" for key, value in found["router"].items() if value not in (None, {}))
        typer.echo(f"base: {found['base']['path']}" + (f" in {found['quantised']}" if found.get("quantised") else ""))
        place = found["gate"] if found["kind"] == "lora" else "feed-forward layer with adapters"
        typer.echo(f"gates: one for each {place}; {router}")
        if found.get("task"):
            typer.echo(f"task adapter: {found['task']} units beside every feed-forward layer")
        size = "rank" if found["kind"] == "lora" else "units"
        Display().table(str(folder), ["adapter", size, "domains", ""], rows)


def _size(folder: Path, kind: str, name: str) -> str:
    """An adapter's ranks, or its units beside each of its layers."""
    from adapt.checkpoints import read_json
    from adapt.mixture.folder import ADAPTERS

    own = folder / ADAPTERS / name
    if kind == "bottleneck":
        config = read_json(own / "bottleneck_config.json")
        return f"{config['width']} beside {', '.join(config['layers'])}"
    config = read_json(own / "adapter_config.json")
    return ", ".join(map(str, sorted({config["r"], *(config.get("rank_pattern") or {}).values()})))


def _changed(folder: Path, output: Path, base: str | None, change: Any) -> None:
    from adapt.mixture.folder import load_mixture, save_mixture, written_whole

    with written_whole(output) as place:
        model, tokenizer = load_mixture(folder, base)
        change(model, tokenizer)
        save_mixture(model, tokenizer, place)
    typer.echo(f"wrote {output}")


def _named(adapters: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in adapters:
        name, equals, folder = each.partition("=")
        if not (name and equals and folder):
            raise AdaptError(f"'{each}' is not of the form NAME=ADAPTER; write for example dates=runs/dates/adapter")
        if name in found:
            raise AdaptError(f"the name '{name}' is given twice ('{found[name]}' and '{folder}'); choose another")
        found[name] = folder
    return found


def _router(text: str) -> RouterChoice:
    import yaml
    from pydantic import TypeAdapter, ValidationError

    from adapt.mixture.routers import AnyRouter

    try:
        return TypeAdapter(AnyRouter).validate_python(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise AdaptError(f"--router '{text}' is no router: {str(error).splitlines()[0]}") from error
