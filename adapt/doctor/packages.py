"""The packages: versions against the ranges that adapt asks for, and the extras."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from adapt.doctor.finding import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_FOR = {
    "deepspeed": "launch with strategy: deepspeed",
    "gguf": "export to GGUF",
    "harness": "tasks of the lm-evaluation-harness",
    "llama-cpp": "trying exports to GGUF in llama.cpp",
    "mergekit": "comparison with mergekit",
    "notebooks": "running the notebooks",
    "search": "searching coefficients of a merge with CMA-ES or TPE",
    "vectors": "word vectors (init cw2v and its kin)",
    "docs": "building the documentation",
}
_KERNELS = {
    "flash_attn": ("flash-attn", "attention: flash_attention_2", "pip install flash-attn --no-build-isolation"),
    "triton": ("triton", "compiled kernels on a GPU", "pip install triton"),
    "liger_kernel": ("liger-kernel", "fused kernels of TRL on a GPU", "pip install liger-kernel"),
}


def required() -> Iterator[Finding]:
    """Every package that adapt cannot do without."""
    if find_distribution() is None:
        text = "runs from a folder, not installed: which versions it needs is not known here"
        yield Finding("packages", "adapt", "missing", text, "pip install -e . in that folder")
    for requirement in _requirements(extra=""):
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            fix = f"pip install '{requirement}'"
            yield Finding("packages", requirement.name, "broken", "not installed", fix)
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        text = version if fits else f"{version}, but adapt needs {requirement.specifier}"
        fix = "" if fits else f"pip install '{requirement.name}{requirement.specifier}'"
        yield Finding("packages", requirement.name, "ok" if fits else "broken", text, fix)


def extras() -> Iterator[Finding]:
    """What can be installed in addition, and what it is for; kernels that need a GPU among them."""
    for extra in sorted(_provided() & _FOR.keys()):
        wanted = list(_requirements(extra))
        lacking = [requirement.name for requirement in wanted if not _installed(requirement)]
        text = f"{_FOR[extra]}: " + (f"{', '.join(lacking)} not installed or too old" if lacking else "installed")
        fix = f"pip install 'adapt[{extra}]'" if lacking else ""
        yield Finding("extras", extra, "missing" if lacking else "ok", text, fix)
    for module, (name, use, fix) in _KERNELS.items():
        there = find_spec(module) is not None
        text = metadata.version(name) if there else f"not installed ({use})"
        yield Finding("extras", name, "ok" if there else "missing", text, "" if there else fix)


def find_distribution() -> metadata.Distribution | None:
    """What pip knows of adapt, or None where it is not installed."""
    try:
        return metadata.distribution("adapt")
    except metadata.PackageNotFoundError:
        return None


def _requirements(extra: str) -> Iterator[Requirement]:
    from packaging.requirements import Requirement

    own = find_distribution()
    for requirement in map(Requirement, (own.requires or ()) if own else ()):
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always is (extra == "") and (always or marker.evaluate({"extra": extra})):
            yield requirement


def _provided() -> set[str]:
    own = find_distribution()
    return set(own.metadata.get_all("Provides-Extra") or ()) if own else set()


def _installed(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False
