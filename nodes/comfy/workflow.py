"""The part of the running workflow that leads to a node, as facts for a job's key, and the files it named."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from ...hallo3.storage.hashing import FileHashCache, hash_file, hash_tensor, hash_text, identify
from .progress import check_interrupted

PASS_THROUGH = {"Hallo3Plan": "audio"}
"""Nodes that only pass this input through; they do not change a job's key."""
MAX_DEPTH = 2000

ADDED: dict[str, dict[str, Any]] = {
    "Hallo3EncodeSpeech": {"seams": "full", "chapters": 0.0, "chapter_join": "fade"},
}
"""Inputs that nodes got later, with the values that change nothing: without them in the hash, jobs keep their
keys."""


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
            added = ADDED.get(self._node(current)["class_type"], {})
            for name, value in inputs.items():
                if name in added and value == added[name]:
                    continue
                if _is_link(value):
                    values[name] = [self._hashes.get(value[0], ""), value[1]]
                else:
                    values[name] = {"value": value}
                    self.texts |= _texts(value)
            facts = [self._node(current)["class_type"], values]
            self._hashes[current] = hash_text(json.dumps(facts, sort_keys=True, default=_encode))
            stack.pop()
        return self._hashes[node_id]

    def consumers(self, node_id: str, output: int) -> list[dict[str, Any]]:
        """The nodes that an output goes to."""
        nodes = map(self._node, self._all)
        return [node for node in nodes if [node_id, output] in [*node.get("inputs", {}).values()]]

    def value_of_source(self, node_id: str, name: str, kinds: tuple[str, ...], value: str) -> Any:
        """A value of the node whose first output goes into an input, if it is of one of the ``kinds``."""
        link: Any = self._node(node_id).get("inputs", {}).get(name)
        if not _is_link(link) or link[1] != 0 or link[0] not in self._all:
            return None
        source = self._node(link[0])
        return source.get("inputs", {}).get(value) if source["class_type"] in kinds else None

    def find_consumer(self, node_id: str, kind: str) -> str | None:
        """The nearest node of a class among those that a node's outputs lead to."""
        found, seen = [node_id], {node_id}
        for current in found:
            if current != node_id and self._node(current)["class_type"] == kind:
                return current
            for other in sorted(self._all - seen):
                values = self._node(other).get("inputs", {}).values()
                if any(_is_link(value) and value[0] == current for value in values):
                    seen.add(other)
                    found.append(other)
        return None

    def values(self, node_id: str) -> dict[str, Any]:
        """A node's inputs; those that come from another node are links."""
        return self._node(node_id).get("inputs", {})

    def find_source(self, node_id: str, name: str, kinds: tuple[str, ...]) -> dict[str, Any] | None:
        """The node of one of the classes that an input comes from, past nodes that have an input of the same
        name, as a LoRA's loader has a model."""
        for _ in range(MAX_DEPTH):
            link: Any = self.values(node_id).get(name)
            if not _is_link(link) or link[0] not in self._all:
                return None
            node_id = link[0]
            if (node := self._node(node_id))["class_type"] in kinds:
                return node
        return None

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


def running_node() -> tuple[Graph, str] | None:
    """The running workflow, and the node that runs in it or is asked for its fingerprint, if any."""
    context, dynprompt = get_executing_context(), get_progress_state().dynprompt
    if context is None or not dynprompt.has_node(context.node_id):
        return None
    return Graph(dynprompt), str(context.node_id)


class NamedFiles:
    """The files and folders that the outputs of nodes name, which ComfyUI keeps for an equal workflow."""

    def __init__(self) -> None:
        self._files = dict[str, dict[Path, list[int]]]()
        self._losses, self._numbers = dict[str, int](), count(1)

    def add(self, path: Path) -> None:
        """The running node's output names ``path``."""
        if (running := running_node()) is not None:
            graph, node = running
            self._files.setdefault(graph.compute_hash(node), {})[path] = file_state(path)
            for kept in (self._files, self._losses):
                while len(kept) > MAX_WORKFLOWS:
                    kept.pop(next(iter(kept)))

    def losses(self) -> int:
        """A new number each time that a file of this workflow, up to the node that is asked, has gone or is
        another one: part of a fingerprint, it makes the node run again."""
        if (running := running_node()) is None:
            return 0
        graph, node = running
        files = self._files.get(key := graph.compute_hash(node), {})
        lost = [path for path, seen in files.items() if file_state(path) != seen]
        for path in lost:
            del files[path]
            self._losses[key] = next(self._numbers)
        return self._losses.get(key, 0)


NAMED_FILES = NamedFiles()
MAX_WORKFLOWS = 10_000


def file_state(path: Path | None) -> list[int]:
    """Numbers that change when a file does, for fingerprints; empty if it is missing."""
    with suppress(OSError):
        return identify(path) if path is not None else []
    return []


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
