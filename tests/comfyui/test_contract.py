"""Saved workflows keep working: the nodes match tests/data/nodes.json."""

from __future__ import annotations

import json

from comfyui.contract import CONTRACT, contract_of
from comfyui.host import Host


def test_the_nodes_are_as_they_were(host: Host) -> None:
    """Inputs are only ever appended; what changes here breaks somebody's workflow."""
    assert contract_of(host) == json.loads(CONTRACT.read_text(encoding="utf-8"))


def test_every_node_explains_itself(host: Host) -> None:
    for node in host.module("nodes.extension").NODES:
        schema = node.GET_SCHEMA()
        assert schema.node_id.startswith("Hallo3")
        assert schema.display_name
        assert schema.category.startswith("Hallo3")
        assert schema.search_aliases
        assert len(schema.description) > 40
        for each in (*schema.inputs, *schema.outputs):
            assert each.tooltip, f"{schema.node_id}: {each.id}"
            assert each.tooltip.endswith("."), f"{schema.node_id}: {each.id}"
