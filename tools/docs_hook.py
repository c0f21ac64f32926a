"""mkdocs calls these functions: the command's options come from their declarations, the nodes' help from
``web/docs``."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hallo3.cli.main import COMMANDS  # noqa: E402
from hallo3.cli.options import add_options  # noqa: E402

HELP = ROOT / "web" / "docs"


def on_config(config: Any) -> Any:
    """Lists the nodes' pages and the decisions in the navigation."""
    nodes = [f"reference/nodes/{page.parent.name}.md" for page in sorted(HELP.glob("*/en.md"))]
    decisions = [f"decisions/{page.name}" for page in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    for section in (entry for entry in config.nav if isinstance(entry, dict)):
        for pages in (each for each in section.values() if isinstance(each, list)):
            if "reference/nodes.md" in pages:
                pages[pages.index("reference/nodes.md")] = {"Nodes": ["reference/nodes.md", *nodes]}
            if {"Decisions": "decisions"} in pages:
                pages[pages.index({"Decisions": "decisions"})] = {"Decisions": decisions}
    return config


def on_files(files: Files, config: Any) -> Files:
    for page in sorted(HELP.glob("*/en.md")):
        text = page.read_text(encoding="utf-8")
        files.append(File.generated(config, f"reference/nodes/{page.parent.name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    del page, config, files
    markdown = re.sub(r"\.\./\.\./web/docs/(\w+)/en\.md", r"nodes/\1.md", markdown)
    return markdown.replace("<!-- options -->", "\n".join(map(describe_command, COMMANDS)))


def describe_command(name: str) -> str:
    """A command's options as tables, one per group, in the order of its help."""
    parser = argparse.ArgumentParser(f"hallo3 {name}")
    add_options(parser, COMMANDS[name].options)
    lines = [f"## {name}", "", f"{COMMANDS[name].description or COMMANDS[name].help}", ""]
    for group in parser._action_groups:
        actions = [each for each in group._group_actions if not isinstance(each, argparse._HelpAction)]
        if not actions:
            continue
        title = group.title if group.title not in ("options", "positional arguments") else None
        lines += [f"### {title}", ""] if title else []
        lines += [group.description.replace("%%", "%"), ""] if title and group.description else []
        lines += ["| | |", "|---|---|", *map(describe_option, actions), ""]
    return "\n".join(lines)


def describe_option(action: argparse.Action) -> str:
    value = action.metavar or ("" if action.choices is None else "\\|".join(map(str, action.choices)))
    words = " ".join([", ".join(action.option_strings), str(value)]).strip()
    return f"| `{words}` | {(action.help or '').replace('%%', '%').replace('|', chr(92) + '|')} |"
