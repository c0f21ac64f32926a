"""Noise is decided by its question alone."""

from itertools import product

import pytest
import torch

from hallo3.noise import Purpose, make_noise

SHAPE = (64, 64)
SEEDS = (0, 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1)


def test_the_same_question_has_the_same_answer_in_any_order() -> None:
    forwards = [make_noise(3)(Purpose.STEP, s, i, SHAPE) for s in range(2) for i in range(2)]
    noise = make_noise(3)
    backwards = [noise(Purpose.STEP, s, i, SHAPE) for s in (1, 0) for i in (1, 0)]
    for one, other in zip(forwards, reversed(backwards), strict=True):
        assert torch.equal(one, other)


def test_every_part_of_the_question_counts() -> None:
    questions = product(SEEDS, Purpose, (0, 1), (0, 1))
    answers = [make_noise(seed)(*question, SHAPE) for seed, *question in questions]
    flat = torch.stack([answer.flatten()[:8] for answer in answers])
    assert len(flat.unique(dim=0)) == len(answers)


def test_draws_are_what_they_say() -> None:
    uniform = make_noise(0)(Purpose.MOTION_MASK, 0, 0, (200, 200))
    assert 0 <= float(uniform.min()) < 0.01 < 0.99 < float(uniform.max()) < 1
    normal = make_noise(0)(Purpose.START, 0, 0, (200, 200))
    assert abs(float(normal.mean())) < 0.02
    assert abs(float(normal.std()) - 1) < 0.02
    assert normal.dtype == uniform.dtype == torch.float32


def test_the_numbers_stay_what_they_are() -> None:
    """A saved seed must give the same video with the next numpy."""
    stored = torch.tensor([-1.39997935, -0.42306212, -1.24960148, 0.18270253])
    assert torch.allclose(make_noise(42)(Purpose.START, 1, 0, (4,)), stored, atol=1e-7)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_beyond_64_bits_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=str(seed)):
        make_noise(seed)
