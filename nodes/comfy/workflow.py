"""The part of the running workflow that leads to a node, as facts for a job's key."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import folder_paths
import torch
from server import PromptServer

from ...hallo3.storage.hashing import FileHashCache, hash_file, hash_tensor, hash_text
from .progress import check_interrupted

PASS_THROUGH = {"Hallo3Plan": "audio"}
"""Nodes that only pass this input through; they do not change a job's key."""
MAX_DEPTH = 2000


class Graph:
    """The nodes of a running workflow, expanded ones included. ``texts`` are the texts among the values of
    the nodes hashed so far."""

    def __init__(self, dynprompt: Any) -> None:
        self._node: Callable[[str], dict[str, Any]] = dynprompt.get_node
        self._all: set[str] = dynprompt.all_node_ids()
        self._hashes = dict[str, str]()
        self.texts = set[str]()

    def compute_hash(self, node_id: str, ignored: tuple[str, ...] = ()) -> str:
        """The hash of a node, its values and all nodes before it, independent of node numbers, without the
        node's ``ignored`` inputs."""
        stack = [node_id]
        while stack:  # no recursion: chains may be long
            current = stack[-1]
            inputs = {
                name: self._resolve(value)
                for name, value in self._node(current).get("inputs", {}).items()
                if current != node_id or name not in ignored
            }
            links = (value[0] for value in inputs.values() if _is_link(value))
            missing = [i for i in links if i not in self._hashes]
            if missing and len(stack) < MAX_DEPTH:
                stack += missing
                continue
            values: dict[str, Any] = {}
            for name, value in inputs.items():
                if _is_link(value):
                    values[name] = [self._hashes.get(value[0], ""), value[1]]
                else:
                    values[name] = {"value": value}
                    self.texts |= _texts(value)
            facts = [self._node(current)["class_type"], values]
            self._hashes[current] = hash_text(json.dumps(facts, sort_keys=True, default=_encode))
            stack.pop()
        return self._hashes[node_id]

    def is_connected(self, node_id: str, output: int) -> bool:
        return any(
            link == [node_id, output] for i in self._all for link in self._node(i).get("inputs", {}).values()
        )

    def _resolve(self, value: Any) -> Any:
        """A link past nodes that pass their input through."""
        for _ in range(MAX_DEPTH):
            if not _is_link(value) or value[1] != 0:
                break
            node = self._node(value[0])
            source: Any = node.get("inputs", {}).get(PASS_THROUGH.get(node["class_type"], ""))
            if not _is_link(source):
                break
            value = source
        return value


def hash_named_files(
    texts: set[str], cache: FileHashCache, show: Callable[[str], None]
) -> dict[str, list[str]]:
    """Hashes of the files among ComfyUI's models and inputs that texts name. Can be interrupted."""
    hashes: dict[str, list[str]] = {}
    for text in sorted(texts):
        for path in _find_files(text):
            show(f"checking {path.name}")
            with suppress(OSError):  # the node that needs the file reports it
                digest = cache.get(path, lambda path: hash_file(path, check_interrupted))
                hashes.setdefault(text, []).append(digest)
    return hashes


def running_graph(node_id: str) -> Graph | None:
    """The running workflow that contains the node."""
    running, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    return next((Graph(_Prompt(item[2])) for item in running if node_id in item[2]), None)


class _Prompt:
    """A queued workflow with the interface of a running one."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self._prompt = prompt

    def get_node(self, node_id: str) -> dict[str, Any]:
        return self._prompt[node_id]

    def all_node_ids(self) -> set[str]:
        return set(self._prompt)


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


def _encode(value: Any) -> str:
    """For a value that JSON cannot hold: a tensor's hash; anything else never equals itself again."""
    return hash_tensor(value) if isinstance(value, torch.Tensor) else uuid.uuid4().hex


def _texts(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {text for item in items for text in _texts(item)}


def _find_files(text: str) -> list[Path]:
    if not 0 < len(text) < 300 or "\0" in text or "\n" in text:
        return []
    with suppress(OSError, ValueError):  # not a file name on this system
        paths = [folder_paths.get_full_path(kind, text) for kind in folder_paths.folder_names_and_paths]
        if folder_paths.exists_annotated_filepath(text):
            paths.append(folder_paths.get_annotated_filepath(text))
        return [Path(path) for path in dict.fromkeys(paths) if path and Path(path).is_file()]
    return []
