"""The face detector learns heads of its level's sizes, where they are and look; the rest it must not see or
is left out."""

import pytest
import torch

pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")

from hallo3.face.detector import DetectorOutput, find_level_faces
from hallo3.geometry import PixelBox
from training.detector import Head, compute_losses, draw_examples, make_batch, make_network, make_targets

HEIGHT, WIDTH = 96, 144


def make_head(left: float, top: float, tall: float, **others: bool) -> Head:
    return Head(PixelBox(left, top, left + 0.75 * tall, top + tall), 0.5, -0.2, **others)


def test_targets_are_what_the_detector_reads_as_the_same_faces() -> None:
    heads = [make_head(10, 20, 32), make_head(80, 30, 50)]
    targets = make_targets([heads], HEIGHT, WIDTH)
    x, y = ((torch.arange(18) + 0.5) * 8)[None], ((torch.arange(12) + 0.5) * 8)[:, None]
    left, top, right, bottom = targets.edges[0]
    output = DetectorOutput(
        torch.where(targets.heat == 1, 10.0, -10.0),
        torch.stack((x - left, y - top, right - x, bottom - y))[None],
        targets.angles,
    )
    found = find_level_faces(output, HEIGHT, WIDTH)
    assert [face.box for face in sorted(found)] == [pytest.approx(head.box, abs=1e-3) for head in heads]
    assert all(face.yaw == pytest.approx(28.65, abs=0.01) and face.pitch < 0 for face in found)
    assert all(float(loss) < 0.01 for loss in compute_losses(output, targets).values())


@pytest.mark.parametrize(
    ("head", "heat", "counted"),
    [
        (make_head(40, 20, 32), 1.0, 1.0),
        (make_head(40, 20, 14), 0.0, 0.0),
        (make_head(40, 20, 64), 0.0, 0.0),
        (make_head(40, 20, 32, doubtful=True), 0.0, 0.0),
        (make_head(-15, 20, 32), 0.0, 0.0),
        (make_head(-21, 20, 32), 0.0, 1.0),
        (make_head(20, -10, 120), 0.0, 1.0),
        (make_head(40, 20, 6), 0.0, 1.0),
    ],
)
def test_heads_count_by_their_size_and_what_is_to_be_seen(head: Head, heat: float, counted: float) -> None:
    targets = make_targets([[head]], HEIGHT, WIDTH)
    assert float(targets.heat.amax()) == heat
    assert float(targets.counted.amin()) == counted


def test_the_name_decides_the_pictures_and_the_second_is_the_mirror_image() -> None:
    (one, targets), (same, _), (other, _) = (make_batch(name) for name in ("a", "a", "b"))
    assert torch.equal(one, same)
    assert one.shape != other.shape or not torch.equal(one, other)
    assert targets.heat.shape == (len(one), -(-one.shape[2] // 8), -(-one.shape[3] // 8))
    for number in range(12):
        drawn, mirrored = draw_examples(f"mirror {number}", 64, 80)
        for head, other_head in zip(drawn.heads, mirrored.heads, strict=True):
            assert other_head.mirror(80).box == pytest.approx(head.box)
            assert other_head.yaw == -head.yaw


def test_a_step_reaches_every_weight() -> None:
    network, (pictures, targets) = make_network(0), make_batch("reach")
    torch.stack([*compute_losses(network(pictures), targets).values()]).sum().backward()
    assert all(
        float(weight.grad.abs().max()) > 0 for weight in network.parameters() if weight.grad is not None
    )
    assert all(weight.grad is not None for weight in network.parameters())
