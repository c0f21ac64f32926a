"""What leads to a node in the workflow that runs, as facts that a job is known by."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import folder_paths
import torch
from server import PromptServer

from ...hallo3.storage.hashing import FileHashCache, hash_file, hash_tensor, hash_text

PASSED_THROUGH = {"Hallo3Plan": "audio"}
"""Nodes that decide nothing: what they hand on is that input."""
DEEPEST = 2000


class Graph:
    """The nodes of a running workflow, those that were expanded too."""

    def __init__(self, dynprompt: Any) -> None:
        self._node: Callable[[str], dict[str, Any]] = dynprompt.get_node
        self._all: set[str] = dynprompt.all_node_ids()
        self._hashes = dict[str, str]()
        self.texts = set[str]()

    def hash_of(self, node_id: str, ignored: tuple[str, ...] = ()) -> str:
        """A hash of a node, its values and everything before it, whatever the nodes are numbered; ``texts``
        then has all texts among the values. ``ignored`` are inputs of that node that decide nothing."""
        waiting = [node_id]
        while waiting:  # no recursion: chains may be long
            current = waiting[-1]
            before = self._before(current, ignored if current == node_id else ())
            missing = [i for i in before if i not in self._hashes]
            if missing and len(waiting) < DEEPEST:
                waiting += missing
                continue
            self._hashes[current] = self._hash(current, ignored if current == node_id else ())
            waiting.pop()
        return self._hashes[node_id]

    def connected(self, node_id: str, output: int) -> bool:
        """Whether any node takes this output."""
        return any(
            link == [node_id, output] for i in self._all for link in self._node(i).get("inputs", {}).values()
        )

    def _before(self, node_id: str, ignored: tuple[str, ...]) -> list[str]:
        return [value[0] for value in self._inputs(node_id, ignored).values() if _is_link(value)]

    def _inputs(self, node_id: str, ignored: tuple[str, ...]) -> dict[str, Any]:
        """A node's values and links; a link to what a node only hands on is one to where it comes from."""
        inputs = self._node(node_id).get("inputs", {})
        return {name: self._followed(value) for name, value in inputs.items() if name not in ignored}

    def _followed(self, value: Any) -> Any:
        for _ in range(DEEPEST):
            if not _is_link(value) or value[1] != 0:
                break
            node = self._node(value[0])
            onward: Any = node.get("inputs", {}).get(PASSED_THROUGH.get(node["class_type"], ""))
            if not _is_link(onward):
                break
            value = onward
        return value

    def _hash(self, node_id: str, ignored: tuple[str, ...]) -> str:
        node = self._node(node_id)
        values: dict[str, Any] = {}
        for name, value in self._inputs(node_id, ignored).items():
            if _is_link(value):
                values[name] = [self._hashes.get(value[0], ""), value[1]]
            else:
                values[name] = {"value": value}
                self.texts |= _texts(value)
        text = json.dumps([node["class_type"], values], sort_keys=True, default=_named)
        return hash_text(text)


def files_of(texts: set[str], contents: FileHashCache, said: Callable[[str], None]) -> dict[str, list[str]]:
    """Hashes of the files that texts in a workflow name, among ComfyUI's models and inputs. Can be
    interrupted."""

    def watch(count: int) -> None:
        del count
        mm.throw_exception_if_processing_interrupted()

    found: dict[str, list[str]] = {}
    for text in sorted(texts):
        for path in _paths(text):
            said(f"checking {path.name}")
            with suppress(OSError):  # gone or not readable: whoever needs it says so
                found.setdefault(text, []).append(contents.get(path, lambda path: hash_file(path, watch)))
    return found


def running_graph(node_id: str) -> Graph | None:
    """The workflow that runs now, if it has that node."""
    running, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    for item in running:
        if node_id in item[2]:
            return Graph(_Prompt(item[2]))
    return None


class _Prompt:
    """A workflow as it was sent, asked as a running one is."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self._prompt = prompt

    def get_node(self, node_id: str) -> dict[str, Any]:
        return self._prompt[node_id]

    def all_node_ids(self) -> set[str]:
        return set(self._prompt)


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


def _named(value: Any) -> str:
    """What stands for a value that an expanded node was given: a tensor's content, of anything else nothing
    that would be found again."""
    return hash_tensor(value) if isinstance(value, torch.Tensor) else uuid.uuid4().hex


def _texts(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    if isinstance(value, list):
        return {text for item in value for text in _texts(item)}
    if isinstance(value, dict):
        return {text for item in value.values() for text in _texts(item)}
    return set()


def _paths(text: str) -> list[Path]:
    """Files that a text may name; a prompt names none."""
    if not 0 < len(text) < 300 or "\0" in text or "\n" in text:
        return []
    with suppress(OSError, ValueError):  # a text that is no name on this system
        found = [folder_paths.get_full_path(kind, text) for kind in folder_paths.folder_names_and_paths]
        if folder_paths.exists_annotated_filepath(text):
            found.append(folder_paths.get_annotated_filepath(text))
        return [Path(path) for path in dict.fromkeys(found) if path and Path(path).is_file()]
    return []
