"""The blueprints: a talking portrait as one node, in the format of ComfyUI's own blueprints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .graph import OUTSIDE_IN, OUTSIDE_OUT, ROW, Graph, Slot, identifier
from .parts import LOADERS, PROMPT, Networks, load, load_built_in
from .spec import Spec

CATEGORY = "Video generation and editing/Image to video"
"""Of ComfyUI's own, where users look."""
SHOWN = {"seed": "INT", "steps": "INT", "guidance_scale": "FLOAT", "paste_back": "BOOLEAN"}
"""Widgets of the video that every blueprint has."""


@dataclass(frozen=True)
class Blueprint:
    description: str
    fill: Callable[[Graph], None]


def stages(graph: Graph) -> None:
    """The networks come from outside."""
    kinds = {"model": "MODEL", "reference_network": "HALLO3_REFERENCE_NETWORK", "vae": "VAE"}
    networks = {
        name: graph.entry(name, kind) for name, kind in (kinds | {"audio_encoder": "AUDIO_ENCODER"}).items()
    }
    render(graph, networks, lambda: graph.entry("positive", "CONDITIONING"))


def all_in_one(graph: Graph) -> None:
    """The built-in model is inside."""
    graph.column(-400)
    render_prompt(graph, load_built_in(graph))


def from_files(graph: Graph) -> None:
    """Loaders of the released weights are inside."""
    graph.column(-400)
    render_prompt(graph, {network: load(graph, network, graph.entry) for network in LOADERS})


def render_prompt(graph: Graph, networks: Networks) -> None:
    def encode() -> Slot:
        text = graph.node(
            "CLIPTextEncode",
            height=150,
            clip=networks["clip"],
            text=graph.entry("prompt", "STRING"),
            start={"text": PROMPT},
        )
        return text["CONDITIONING"]

    render(graph, networks, encode)


def render(graph: Graph, networks: Networks, positive: Callable[[], Slot]) -> None:
    """Portrait and audio to a video."""
    portrait, audio = graph.entry("portrait", "IMAGE"), graph.entry("audio", "AUDIO")
    graph.column(0)
    speech = graph.node("Hallo3EncodeSpeech", audio=audio, audio_encoder=networks["audio_encoder"])
    identity = graph.node(
        "Hallo3IdentityReference", height=400, portrait=portrait, vae=networks["vae"],
        reference_network=networks["reference_network"],
    )  # fmt: skip
    prompt = positive()
    graph.column(400)
    video = graph.node(
        "Hallo3Extrapolate", height=590, model=networks["model"], vae=networks["vae"],
        identity=identity["identity"], speech=speech["speech"], positive=prompt,
        **{name: graph.entry(name, kind) for name, kind in SHOWN.items()},
    )  # fmt: skip
    graph.exits = {output.name: video[output.name] for output in video.spec.outputs}


ONE_NODE = "A talking video from one portrait and one speech"
BLUEPRINTS = {
    "Talking portrait": Blueprint(f"{ONE_NODE}: all stages of Hallo3 in one node.", stages),
    "Talking portrait (built-in)": Blueprint(f"{ONE_NODE}: drawn faces, nothing to download.", all_in_one),
    "Talking portrait (released weights)": Blueprint(
        f"{ONE_NODE}: photographs, with Hallo3's files.", from_files
    ),
}


def blueprint(name: str, specs: dict[str, Spec]) -> dict[str, Any]:
    """The file."""
    graph = Graph(name, specs)
    BLUEPRINTS[name].fill(graph)
    links = graph.links()
    widgets = _widgets(graph, links)
    last = len(graph.nodes) + 1
    node = {
        "id": last, "type": identifier(name), "title": name, "pos": [0, 0], "size": [300, 260],
        "flags": {}, "order": 0, "mode": 0,
        "inputs": [
            {"name": entry, "type": slot.type, "link": None}
            | ({"widget": {"name": entry}} if entry in widgets else {})
            for entry, slot in zip(graph.entry_names, graph.entries, strict=True)
        ],
        "outputs": [{"name": end, "type": slot.type, "links": []} for end, slot in graph.exits.items()],
        "properties": {"proxyWidgets": list(widgets.values()), "cnr_id": graph.nodes[0].spec.pack},
        "widgets_values": [],
    }  # fmt: skip
    return {
        "revision": 0, "last_node_id": last, "last_link_id": 0, "nodes": [node], "links": [],
        "version": 0.4, "extra": {}, "definitions": {"subgraphs": [_definition(name, graph, links)]},
    }  # fmt: skip


def _widgets(graph: Graph, links: list[list[Any]]) -> dict[str, list[str]]:
    """[node, widget] of every input that is one."""
    nodes, widgets = {node.id: node for node in graph.nodes}, dict[str, list[str]]()
    for _, source, outlet, target, inlet, _ in links:
        if source == OUTSIDE_IN and (given := nodes[target].inputs()[inlet]).widget:
            widgets[graph.entry_names[outlet]] = [str(target), given.name]
    return widgets


def _definition(name: str, graph: Graph, links: list[list[Any]]) -> dict[str, Any]:
    named = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    taken, given = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
    for link, source, outlet, target, inlet, _ in links:
        if source == OUTSIDE_IN:
            taken[outlet].append(link)
        if target == OUTSIDE_OUT:
            given[inlet].append(link)
    return {
        "id": identifier(name), "version": 1, "revision": 0, "config": {}, "name": name,
        "state": {
            "lastGroupId": 0, "lastNodeId": len(graph.nodes), "lastLinkId": len(links), "lastRerouteId": 0,
        },
        "inputNode": {"id": OUTSIDE_IN, "bounding": [-660, 60, 160, 40 + ROW * len(graph.entries)]},
        "outputNode": {"id": OUTSIDE_OUT, "bounding": [800, 60, 120, 40 + ROW * len(graph.exits)]},
        "inputs": [
            _end(f"{name}/in/{end}", end, slot.type, taken[slot.index])
            for end, slot in zip(graph.entry_names, graph.entries, strict=True)
        ],
        "outputs": [
            _end(f"{name}/out/{end}", end, slot.type, given[index])
            for index, (end, slot) in enumerate(graph.exits.items())
        ],
        "widgets": [], "nodes": graph.nodes_json(), "groups": [],
        "links": [dict(zip(named, link, strict=True)) for link in links], "extra": {},
        "category": CATEGORY, "description": BLUEPRINTS[name].description,
    }  # fmt: skip


def _end(path: str, name: str, kind: str, links: list[int]) -> dict[str, Any]:
    return {"id": identifier(path), "name": name, "type": kind, "linkIds": links}
