"""Documents, help pages, interface and code use no phrase of ``support.plain_english``."""

from __future__ import annotations

from pathlib import Path

from support.plain_english import find_banned

ROOT = Path(__file__).resolve().parents[2]
CHECKED = (
    "__init__.py",
    "hallo3/**/*.py",
    "nodes/**/*.py",
    "locales/en/*.json",
    "web/docs/*/en.md",
    "workflows/*.json",
    "subgraphs/*.json",
    "tools/**/*.py",
    "tests/comfyui/*.py",
    "tests/contract/*.py",
    "tests/*.py",
    "*.md",
    "docs/*.md",
    "docs/decisions/*.md",
    "docs/measurements/*.md",
)


def test_no_banned_phrase_is_written() -> None:
    files = [path for pattern in CHECKED for path in sorted(ROOT.glob(pattern))]
    assert len(files) > 30
    assert [found for path in files for found in find_banned(path)] == []
