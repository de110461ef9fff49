"""A finished stage's manifest: how it was made, on what, what was measured, and every file with its hash."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from adapt.checkpoints import read_json
from adapt.errors import AdaptError
from adapt.pipeline.folders import MANIFEST, STARTED
from adapt.pipeline.hashes import HashCache, digest_of, sha256_of

FORMAT = 1
PACKAGES = ("adapt", "accelerate", "bitsandbytes", "datasets", "liger-kernel", "numpy", "peft", "safetensors")
PACKAGES += ("tokenizers", "torch", "transformers", "trl")
_NOT_OUTCOME = {"log.jsonl", "tensorboard"}
"""What tells of the run and not of its result: it holds times, which never come out twice the same."""


def now() -> str:
    """The time as it stands in manifests: UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def packages() -> dict[str, str]:
    """Versions of the installed packages that can change what a stage makes."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """Processor, cores, memory; the accelerators and threads as torch sees them, if the stage has loaded torch."""
    import psutil

    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
            found["gpus"] = [{"name": device.name, "memory_bytes": device.total_memory} for device in devices]
            found["cuda"] = torch.version.cuda
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def list_files(folder: Path) -> list[dict[str, Any]]:
    """Every file that a stage made: path below its folder, size in bytes, SHA-256."""
    own = {folder / name for name in (MANIFEST, STARTED, f"{MANIFEST}.tmp", f"{STARTED}.tmp")}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path not in own)
    return [
        {"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in paths
    ]


def outcome_of(files: list[dict[str, Any]]) -> str:
    """One hash over what the stage made. Two runs with the same outcome are the same to all that read them."""
    made = (file for file in files if file["path"].split("/")[0] not in _NOT_OUTCOME)
    return digest_of(f"{file['path']} {file['sha256']}" for file in made)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder. Raises AdaptError with the fix where it cannot be read."""
    try:
        manifest = read_json(folder / MANIFEST)
    except AdaptError as error:
        raise AdaptError(f"{error}; make the stage again with --force {folder.parent.name}") from error
    if not isinstance(manifest, dict) or "files" not in manifest:
        raise AdaptError(
            f"'{folder / MANIFEST}' is no manifest; make the stage again with --force {folder.parent.name}"
        )
    return manifest


def verify(folder: Path, manifest: dict[str, Any], hashes: HashCache | None = None) -> None:
    """Raise AdaptError, with the file and the fix, unless the folder's files are there with their sizes.

    With `hashes`, their contents are compared too.
    """
    fix = f"make the stage again with --force {folder.parent.name}"
    for file in manifest["files"]:
        path = folder / file["path"]
        if not path.is_file():
            raise AdaptError(f"'{path}' is missing from a finished stage; {fix}")
        size = path.stat().st_size
        if size != file["size"]:
            raise AdaptError(f"'{path}' has {size:,} bytes, but {file['size']:,} were written; {fix}")
        if hashes is not None and hashes.sha256(path) != file["sha256"]:
            raise AdaptError(f"'{path}' is not as it was written: its SHA-256 differs; {fix}")
