"""The blueprint: encode, look and extrapolate as one node, in the format of ComfyUI's own blueprints."""

from __future__ import annotations

from typing import Any

from .graph import OUTSIDE_IN, OUTSIDE_OUT, ROW, Graph, identifier
from .spec import Spec

NAME = "Talking portrait"
SOCKETS = {
    "model": "MODEL",
    "reference_network": "HALLO3_REFERENCE_NETWORK",
    "vae": "VAE",
    "audio_encoder": "AUDIO_ENCODER",
    "portrait": "IMAGE",
    "audio": "AUDIO",
}
WIDGETS = {"seed": "INT", "steps": "INT", "guidance_scale": "FLOAT"}


def inside(specs: dict[str, Spec]) -> Graph:
    """What the node stands for."""
    graph = Graph(NAME, specs)
    given = {name: graph.entry(name, kind) for name, kind in (SOCKETS | WIDGETS).items()}
    graph.column(0)
    speech = graph.node("Hallo3EncodeSpeech", audio=given["audio"], audio_encoder=given["audio_encoder"])
    identity = graph.node(
        "Hallo3IdentityReference", height=400, portrait=given["portrait"], vae=given["vae"],
        reference_network=given["reference_network"],
    )  # fmt: skip
    graph.column(400)
    video = graph.node(
        "Hallo3Extrapolate", width=280, height=590, model=given["model"], vae=given["vae"],
        identity=identity["identity"], speech=speech["speech"],
        **{name: given[name] for name in WIDGETS},
    )  # fmt: skip
    graph.exits = {"video": video["video"], "images": video["images"]}
    return graph


def blueprint(specs: dict[str, Spec]) -> dict[str, Any]:
    """The file."""
    graph = inside(specs)
    links = graph.links()
    kinds = {**SOCKETS, **WIDGETS}
    last = len(graph.nodes) + 1
    proxies = [[str(graph.nodes[-1].id), name] for name in WIDGETS]
    node = {
        "id": last, "type": identifier(NAME), "title": NAME, "pos": [0, 0], "size": [280, 220],
        "flags": {}, "order": 0, "mode": 0,
        "inputs": [
            {"name": name, "type": kind, "link": None}
            | ({"widget": {"name": name}} if name in WIDGETS else {})
            for name, kind in kinds.items()
        ],
        "outputs": [{"name": name, "type": slot.type, "links": []} for name, slot in graph.exits.items()],
        "properties": {"proxyWidgets": proxies, "cnr_id": graph.nodes[0].spec.pack},
        "widgets_values": [],
    }  # fmt: skip
    return {
        "revision": 0, "last_node_id": last, "last_link_id": 0, "nodes": [node], "links": [],
        "version": 0.4, "extra": {}, "definitions": {"subgraphs": [_definition(graph, links, kinds)]},
    }  # fmt: skip


def _definition(graph: Graph, links: list[list[Any]], kinds: dict[str, str]) -> dict[str, Any]:
    named = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return {
        "id": identifier(NAME), "version": 1, "revision": 0, "config": {}, "name": NAME,
        "state": {
            "lastGroupId": 0, "lastNodeId": len(graph.nodes), "lastLinkId": len(links), "lastRerouteId": 0,
        },
        "inputNode": {"id": OUTSIDE_IN, "bounding": [-260, 60, 160, 40 + ROW * len(kinds)]},
        "outputNode": {"id": OUTSIDE_OUT, "bounding": [800, 60, 120, 80]},
        "inputs": [
            _end("in", name, kind, [link[0] for link in links if link[1:3] == [OUTSIDE_IN, index]])
            for index, (name, kind) in enumerate(kinds.items())
        ],
        "outputs": [
            _end("out", name, slot.type, [link[0] for link in links if link[3:5] == [OUTSIDE_OUT, index]])
            for index, (name, slot) in enumerate(graph.exits.items())
        ],
        "widgets": [], "nodes": graph.nodes_json(), "groups": [],
        "links": [dict(zip(named, link, strict=True)) for link in links], "extra": {},
        "category": "Hallo3",
        "description": "A talking video from one portrait and one speech: all stages of Hallo3 in one node.",
    }  # fmt: skip


def _end(side: str, name: str, kind: str, links: list[int]) -> dict[str, Any]:
    return {"id": identifier(f"{NAME}/{side}/{name}"), "name": name, "type": kind, "linkIds": links}
