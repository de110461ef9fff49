"""What a run leaves for a reader: one self-contained HTML page, its plots as PNG, and a table in the terminal."""

from __future__ import annotations

from adapt.report.page import build
from adapt.report.terminal import summary

__all__ = ["build", "summary"]
