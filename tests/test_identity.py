"""An identity warns of approximations that a run does not use itself."""

import pytest
import torch

from hallo3.identity import Identity, Provenance
from hallo3.media.canvas import Canvas


@pytest.mark.parametrize(
    ("provenance", "now", "warning"),
    [
        ((), (), ""),
        ((), ("int8",), ""),
        (("int8",), ("int8",), ""),
        (("int8",), (), "int8 (approximate)"),
        (("int8", "attention sage"), ("attention sage",), "with int8 (approximate)"),
        (("int8", "attention sage"), (), "int8, attention sage (approximate)"),
    ],
)
def test_approximations_that_a_run_does_not_use_are_reported(
    provenance: tuple[str, ...], now: tuple[str, ...], warning: str
) -> None:
    canvas = Canvas(pixels=torch.zeros(1, 3, 1, 8, 8), rows=slice(0, 8), columns=slice(0, 8))
    rest = {"space": "thumbnail", "face_embedding": torch.ones(1, 48), "reference_features": ()}
    identity = Identity(canvas=canvas, **rest, provenance=Provenance("bf16", provenance))
    text = identity.approximation_warning(now)
    assert warning in text
    assert bool(text) == bool(warning)
