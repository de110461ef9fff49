"""The commands of `adapt merge`; one file each. `app` is the whole of them."""

from __future__ import annotations

from merge.commands.app import app

__all__ = ["app"]
