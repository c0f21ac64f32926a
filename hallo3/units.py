"""Sizes and durations as text. Units are decimal: 1 GB is 10^9 bytes, as GPUs and disks are sold."""

from __future__ import annotations

GB = 1_000_000_000


def format_bytes(count: float) -> str:
    """``48 MB``, ``38.0 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def format_duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``, ``3 days 4 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours >= 48:
        return f"{hours // 24} days" + (f" {hours % 24} h" if hours % 24 else "")
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def format_clock(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
