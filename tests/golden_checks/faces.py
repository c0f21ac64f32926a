"""The face mask: from landmarks to a filled box."""

from __future__ import annotations

from hallo3.face.landmarks import SILHOUETTE, box_mask, expand, silhouette_box
from hallo3.geometry import PixelBox
from hallo3.media.framing import MASK_RATIO

from .directory import Check, Golden, Report


def compare_masks(golden: Golden) -> Report:
    """The outline's points, boxes expanded by several ratios, and whole masks."""
    report = Report()
    about = golden.about
    report.exact("silhouette_landmark_ids", list(SILHOUETTE), about["silhouette_landmark_ids"])
    for number, case in enumerate(about["expand_region_pairs"]):
        left, right, top, bottom = case["region"]
        box = PixelBox(left, top, right, bottom)
        found = expand(box, case["image_h"], case["image_w"], case["expand_ratio"])
        report.exact(f"box {number}", [found.left, found.right, found.top, found.bottom], case["result"])
    for case, size in about["masks"].items():
        if golden.has(f"landmarks_{case}"):
            report.exact(f"ratio {case}", MASK_RATIO, size["expand_ratio"])
            box = silhouette_box(golden[f"landmarks_{case}"])
            found = box_mask(box, size["h"], size["w"]) * 255
            report.close(f"face_mask_{case}", found, golden[f"face_mask_{case}"].float(), 0.0)
    return report


CHECKS = (Check(lambda golden: "silhouette_landmark_ids" in golden.about, compare_masks),)
