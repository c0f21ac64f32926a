"""Which fields of a wav2vec2 configuration are read."""

from __future__ import annotations

import pytest

from hallo3.errors import CheckpointError
from hallo3.speech.wav2vec2 import build_wav2vec2


@pytest.mark.parametrize(
    "field", ["_attn_implementation_internal", "auto_map", "torchscript", "do_stable_layer_norm"]
)
def test_only_sizes_are_read(field: str) -> None:
    with pytest.raises(CheckpointError, match=field):
        build_wav2vec2({field: True})
