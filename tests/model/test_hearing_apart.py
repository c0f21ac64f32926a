"""A host may sample some latent frames of a segment apart; they hear what they hear in the whole."""

from __future__ import annotations

import pytest
import torch

from hallo3.models import Models


@pytest.mark.parametrize("frames", [(0, 1), (1, 2, 3), (4,), (0, 3, 4), (3, 4, 0)])
def test_some_latent_frames_hear_what_they_hear_in_the_whole(nano: Models, frames: tuple[int, ...]) -> None:
    with nano.transformer as dit, torch.inference_mode():
        windows = torch.randn(1, *dit.window_shape, generator=torch.Generator().manual_seed(0))
        for apart, whole in zip(
            dit.encode_audio(windows, latent_frames=frames), dit.encode_audio(windows), strict=True
        ):
            torch.testing.assert_close(apart.k, whole.k[list(frames)])
            torch.testing.assert_close(apart.v, whole.v[list(frames)])


def test_a_batch_hears_each_sample(nano: Models) -> None:
    with nano.transformer as dit, torch.inference_mode():
        pair = torch.randn(2, *dit.window_shape, generator=torch.Generator().manual_seed(1))
        both = dit.encode_audio(pair)
        singles = [dit.encode_audio(pair[i : i + 1]) for i in range(2)]
        for index, kv in enumerate(both):
            torch.testing.assert_close(kv.k, torch.cat([single[index].k for single in singles]))
