"""A small language for workflows: nodes from ``/object_info``, placed in columns, joined by links, in groups.

graph = Graph("Name", specs)
graph.column(0)
with graph.group("Model"):
    model = graph.node("Hallo3LoadModel", model_name="built-in")
graph.column(400)
graph.node("Hallo3OriginalSchedule", model=model["model"], steps=8)
graph.as_workflow()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from .spec import Input, Spec

ACTIVE, MUTED, BYPASSED = 0, 2, 4
TITLE, GAP, GROUP_GAP, GROUP_PADDING, GROUP_TITLE = 30, 36, 88, 20, 48
ROW, WIDGET, WIDTH = 20, 24, 280
MATCHTYPE = "COMFY_MATCHTYPE_V3"
OUTSIDE_IN, OUTSIDE_OUT = -10, -20


@dataclass(frozen=True)
class Slot:
    """An output that links may begin at."""

    node: int
    index: int
    type: str


@dataclass(kw_only=True)
class Node:
    """A node with its place; ``node["name"]`` is one of its outputs."""

    id: int
    spec: Spec
    place: tuple[int, int]
    size: tuple[int, int]
    mode: int = ACTIVE
    title: str | None = None
    models: list[dict[str, str]] = field(default_factory=list)
    given: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Slot:
        names = [output.name for output in self.spec.outputs]
        index = names.index(name)
        kind = self.spec.outputs[index].type
        if kind == MATCHTYPE:  # that of what is connected
            kind = next(slot.type for slot in self.given.values() if isinstance(slot, Slot))
        return Slot(self.id, index, kind)

    def inputs(self) -> list[Input]:
        """Sockets, then widgets: the order in which the page keeps them."""
        grown = {name: slot for name, slot in self.given.items() if "." in name}
        extra = [Input(name, slot.type, False, False) for name, slot in grown.items()]
        sockets = [each for each in self.spec.inputs if not each.widget and not each.grows]
        return [*sockets, *extra, *(each for each in self.spec.inputs if each.widget)]

    def widgets_values(self) -> list[Any]:
        """Values in order; a seed is followed by what happens to it after a run."""
        values: list[Any] = []
        for each in self.spec.inputs:
            if each.widget:
                start = self.start.get(each.name, each.default)
                given = self.given.get(each.name, start)
                values.append(start if isinstance(given, Slot) else given)
                values += ["fixed"] if each.seed else []
        return values

    def as_json(self, links: list[list[Any]], order: int) -> dict[str, Any]:
        """As the page saves it."""
        into = {link[4]: link[0] for link in links if link[3] == self.id}
        inputs = [
            {"name": each.name, "type": each.type}
            | ({"widget": {"name": each.name}} if each.widget else {})
            | ({"shape": 7} if each.optional and not each.widget else {})
            | ({"label": each.name.split(".")[1]} if "." in each.name else {})
            | ({"label": self.labels[each.name]} if each.name in self.labels else {})
            | {"link": into.get(index)}
            for index, each in enumerate(self.inputs())
        ]
        outputs = [
            {"name": each.name, "type": self[each.name].type}
            | {"links": [link[0] for link in links if link[1:3] == [self.id, index]]}
            for index, each in enumerate(self.spec.outputs)
        ]
        said = {"Node name for S&R": self.spec.name, "cnr_id": self.spec.pack}
        properties = said | ({"models": self.models} if self.models else {})
        made = {
            "id": self.id, "type": self.spec.name, "pos": list(self.place), "size": list(self.size),
            "flags": {}, "order": order, "mode": self.mode, "inputs": inputs, "outputs": outputs,
            "properties": properties, "widgets_values": self.widgets_values(),
        }  # fmt: skip
        return made if self.title is None else made | {"title": self.title}


class Graph:
    """A workflow that is being written."""

    def __init__(self, name: str, specs: dict[str, Spec]) -> None:
        self.name, self.specs = name, specs
        self.nodes: list[Node] = []
        self.notes: list[dict[str, Any]] = []
        self.groups: list[dict[str, Any]] = []
        self.entries: list[Slot] = []
        self.entry_names: list[str] = []
        self.exits: dict[str, Slot] = {}
        self.extra: dict[str, Any] = {}
        self._x = self._y = 0

    def column(self, x: int, y: int = 0) -> None:
        """Where the next nodes go, each below the one before."""
        self._x, self._y = x, y

    def node(
        self,
        name: str,
        *,
        title: str | None = None,
        mode: int = ACTIVE,
        width: int = WIDTH,
        height: int = 0,
        models: list[dict[str, str]] | None = None,
        start: dict[str, Any] | None = None,
        **given: Any,
    ) -> Node:
        """A node at the cursor. ``given`` are values of widgets, and outputs of other nodes; ``start`` are
        values of widgets that a subgraph shows."""
        spec = self.specs[name]
        node = Node(
            id=len(self.nodes) + len(self.notes) + 1, spec=spec, place=(self._x, self._y + TITLE),
            size=(width, 0), mode=mode, title=title, models=models or [], start=start or {}, given=given,
        )  # fmt: skip
        unknown = set(given) - {each.name for each in node.inputs()}
        if unknown:
            raise KeyError(f"{name} has no input {', '.join(sorted(unknown))}")
        widgets = sum(1 + each.seed for each in spec.inputs if each.widget)
        rows = max(sum(not each.widget for each in node.inputs()), len(spec.outputs))
        node.size = (width, height or rows * ROW + widgets * WIDGET + 16)
        self.nodes.append(node)
        self._y += TITLE + node.size[1] + GAP
        return node

    def note(self, text: str, width: int = 360, height: int = 400) -> None:
        """A MarkdownNote at the cursor."""
        made = {
            "id": len(self.nodes) + len(self.notes) + 1, "type": "MarkdownNote", "title": "Read me",
            "pos": [self._x, self._y + TITLE], "size": [width, height], "flags": {}, "order": 0,
            "mode": 0, "inputs": [], "outputs": [], "properties": {}, "widgets_values": [text],
            "color": "#222", "bgcolor": "#000",
        }  # fmt: skip
        self.notes.append(made)
        self._y += TITLE + height + GAP

    @contextmanager
    def group(self, title: str, color: str = "#3f789e") -> Iterator[None]:
        """A frame around the nodes that are made inside."""
        first = len(self.nodes)
        yield
        inside = self.nodes[first:]
        left, top = min(n.place[0] for n in inside), min(n.place[1] for n in inside) - TITLE
        right = max(n.place[0] + n.size[0] for n in inside)
        bottom = max(n.place[1] + n.size[1] for n in inside)
        x, y = left - GROUP_PADDING, top - GROUP_TITLE
        size = [right + GROUP_PADDING - x, bottom + GROUP_PADDING - y]
        made = {
            "id": len(self.groups) + 1, "title": title, "bounding": [x, y, *size],
            "color": color, "font_size": 24, "flags": {},
        }  # fmt: skip
        self.groups.append(made)
        self._y = bottom + GROUP_GAP

    def entry(self, name: str, kind: str) -> Slot:
        """An input of the subgraph that this graph is the inside of."""
        self.entries.append(Slot(OUTSIDE_IN, len(self.entries), kind))
        self.entry_names.append(name)
        return self.entries[-1]

    def app(self, inputs: dict[str, tuple[Node, str]], output: Node, *, opens: bool) -> None:
        """What the page's app mode shows: ``inputs`` are (node, widget) by their labels. With ``opens`` the
        workflow opens there."""
        for label, (node, widget) in inputs.items():
            node.labels[widget] = label
        chosen = [[node.id, widget] for node, widget in inputs.values()]
        self.extra = {"linearData": {"inputs": chosen, "outputs": [output.id]}, "linearMode": opens}

    def links(self) -> list[list[Any]]:
        """[id, from node, from slot, to node, to slot, type] of every link."""
        made: list[list[Any]] = []
        for node in self.nodes:
            for index, each in enumerate(node.inputs()):
                slot = node.given.get(each.name)
                if isinstance(slot, Slot):
                    if slot.type != each.type:
                        raise TypeError(f"{slot.type} into {node.spec.name}.{each.name} ({each.type})")
                    made.append([len(made) + 1, slot.node, slot.index, node.id, index, slot.type])
        for index, slot in enumerate(self.exits.values()):
            made.append([len(made) + 1, slot.node, slot.index, OUTSIDE_OUT, index, slot.type])
        return made

    def nodes_json(self) -> list[dict[str, Any]]:
        """All nodes, notes first."""
        links = self.links()
        return [*self.notes, *(node.as_json(links, i) for i, node in enumerate(self.nodes))]

    def as_workflow(self) -> dict[str, Any]:
        """The file that the page opens."""
        return {
            "id": identifier(self.name), "revision": 0,
            "last_node_id": len(self.nodes) + len(self.notes), "last_link_id": len(self.links()),
            "nodes": self.nodes_json(), "links": self.links(), "groups": self.groups,
            "config": {}, "extra": self.extra, "version": 0.4,
        }  # fmt: skip


def identifier(name: str) -> str:
    """The same id for the same name."""
    return str(uuid5(NAMESPACE_URL, f"hallo3-comfyui/{name}"))
