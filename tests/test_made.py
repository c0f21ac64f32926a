"""A run says which approximations an identity brings along that it does not make itself."""

from __future__ import annotations

import pytest
import torch

from hallo3.identity import Identity, Provenance
from hallo3.media.canvas import Canvas


@pytest.mark.parametrize(
    ("made", "now", "told"),
    [
        ((), (), ""),
        ((), ("int8",), ""),
        (("int8",), ("int8",), ""),
        (("int8",), (), "int8 (approximate)"),
        (("int8", "attention sage"), ("attention sage",), "by int8 (approximate)"),
        (("int8", "attention sage"), (), "int8, attention sage (approximate)"),
    ],
)
def test_what_a_run_does_not_do_itself_is_told(
    made: tuple[str, ...], now: tuple[str, ...], told: str
) -> None:
    identity = Identity(
        canvas=Canvas(pixels=torch.zeros(1, 3, 1, 8, 8), rows=slice(0, 8), columns=slice(0, 8)),
        space="thumbnail",
        face_embedding=torch.ones(1, 48),
        reference_features=(),
        made=Provenance("bf16", made),
    )
    said = identity.carries(now)
    assert told in said
    assert bool(said) == bool(told)
