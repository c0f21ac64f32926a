"""Figures of one video, and their summary over many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .angle import measure_angles
from .cases import Case, PromptCase, Speaker
from .contents import find_free, measure_contents, measure_ground_change, remove_light
from .mouth import Mouth
from .pixels import (
    Head,
    find_nearest,
    measure_changes,
    measure_colour_errors,
    measure_drift,
    measure_openings,
    measure_seams,
    measure_sharpness,
    resize,
)

LAGS = range(-3, 4)
LOUD_OPENING, QUIET_OPENING = 0.6, 0.05
"""By the mouth rule: above and below."""
HEAD_MARGIN = 1.15
"""Of the head's outline, for what is measured around it."""
PROMPTED_FRAMES = 22
"""Of the end of a video, in which what a prompt asks for is looked for."""
TURNED_FRAMES = 100
"""Of a long video, in which angles are measured."""
MAX_TURN = 15.0, 9.0
"""Degrees of yaw and pitch from where a prompt asks somebody to look."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerFigures:
    """One person in a video. What cannot be measured is NaN.

    ``follows`` is the correlation of the mouth's opening with the mouth rule on its own speech, ``control``
    on another recording (of a pair: the other's), ``lag`` the delay in frames with the highest correlation.
    ``amplitude`` is the opening in loud speech minus that in silence, relative to the truth; ``silent`` the
    opening in silence relative to loud speech. ``yaw`` and ``pitch`` are differences from the portrait's, in
    degrees.
    """

    follows: float
    control: float
    lag: int
    amplitude: float
    silent: float
    yaw: float
    pitch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A video compared with its portrait and speech; ``speakers`` from left to right.

    ``colour`` and ``worst_colour`` are errors of parts of heads in 255ths; ``own`` is whether the nearest
    heads are the own portrait's. ``seam`` is the change across segment borders relative to that inside,
    around heads; ``ground_seam`` the same beside people. ``drift`` is the last quarter's error relative to
    the first's, around heads; ``sharpness`` and ``change`` of the ground are relative to the truth, or
    without one to the portrait.
    """

    speakers: tuple[SpeakerFigures, ...]
    colour: float
    worst_colour: float
    own: bool
    seam: float
    ground_seam: float
    drift: float
    sharpness: float
    change: float

    def as_dict(self) -> dict[str, float]:
        """With means over speakers."""
        own = {key: float(value) for key, value in asdict(self).items() if key != "speakers"}
        people = [asdict(speaker) for speaker in self.speakers]
        return {**{key: mean_known([row[key] for row in people]) for key in people[0]}, **own}


def measure_video(
    frames: Tensor,
    case: Case,
    *,
    new_frames: int,
    other: Mouth | None = None,
    strangers: Sequence[Case] = (),
) -> Figures:
    """Figures of a case's frames [F, 3, H, W] in 0..1. ``other`` is the mouth of another recording; people
    in a pair are compared with each other's instead. ``strangers`` are other cases."""
    height, width = frames.shape[-2:]
    portrait = resize(case.portrait, height, width)
    speakers = [
        _measure_speaker(frames, case, speaker, _other_mouth(case, number) or other)
        for number, speaker in enumerate(case.speakers)
    ]
    around = [cut_head(frames, head) for head in case.heads]
    still = [cut_head(portrait[None], head)[0] for head in case.heads]
    errors = [
        error for head in case.heads for error in measure_colour_errors(frames, portrait, head).values()
    ]
    parts = np.mean([measure_drift(now, then) for now, then in zip(around, still, strict=True)], axis=0)
    others = [stranger.portrait for stranger in strangers]
    heads = [stranger.heads[0] for stranger in strangers]
    free = find_free(case.heads, height, width)
    sharpness = case.sharpness if case.sharpness == case.sharpness else measure_sharpness(portrait[None])
    return Figures(
        speakers=tuple(speakers),
        colour=fmean(errors),
        worst_colour=max(errors),
        own=find_nearest(frames, case.heads[0], [case.portrait, *others], [case.heads[0], *heads]) == 0,
        seam=fmean([measure_seams(measure_changes(each), new_frames) for each in around]),
        ground_seam=measure_seams(measure_changes(frames, free), new_frames),
        drift=divide(float(parts[-1]), float(parts[0])),
        sharpness=divide(measure_sharpness(frames), sharpness),
        change=divide(measure_ground_change(frames, case.heads), case.change),
    )


def _other_mouth(case: Case, number: int) -> Mouth | None:
    return case.speakers[1 - number].mouth if len(case.speakers) == 2 else None


def _measure_speaker(frames: Tensor, case: Case, speaker: Speaker, other: Mouth | None) -> SpeakerFigures:
    rows = measure_openings(frames, case.portrait, speaker.head).numpy()
    asked, truth = speaker.mouth.open[: len(rows)], speaker.truth.numpy()
    by_lag = {lag: correlate(rows, asked, lag) for lag in LAGS}
    some = frames[:: max(1, len(frames) // TURNED_FRAMES)]
    turned = measure_angles(some, case.portrait, speaker.head.box).mean(dim=0).tolist()
    return SpeakerFigures(
        follows=by_lag[0],
        control=math.nan if other is None else correlate(rows, other.open, 0),
        lag=max(by_lag, key=lambda lag: by_lag[lag] if by_lag[lag] == by_lag[lag] else -1.0),
        amplitude=divide(measure_amplitude(rows, asked), measure_amplitude(truth, asked))
        if len(truth)
        else math.nan,
        silent=divide(_mean(rows, asked < QUIET_OPENING), _mean(rows, asked > LOUD_OPENING)),
        yaw=math.degrees(abs(turned[0] - speaker.head.yaw)),
        pitch=math.degrees(abs(turned[1] - speaker.head.pitch)),
    )


def cut_head(frames: Tensor, head: Head) -> Tensor:
    """The region [..., h, w] around a head."""
    return head.box.part(-HEAD_MARGIN, -HEAD_MARGIN, HEAD_MARGIN, HEAD_MARGIN).crop(frames)


def correlate(rows: Floats, asked: Floats, lag: int) -> float:
    """Correlation of openings with the rule ``lag`` frames earlier; NaN if either is constant."""
    length = min(len(rows), len(asked)) - abs(lag)
    measured = rows[max(0, lag) : max(0, lag) + length]
    target = asked[max(0, -lag) : max(0, -lag) + length]
    if length < 2 or measured.std() < 1e-6 or target.std() < 1e-6:
        return float("nan")
    return float(np.corrcoef(measured, target)[0, 1])


def measure_amplitude(rows: Floats, asked: Floats) -> float:
    """Opening in loud speech minus that in silence."""
    return _mean(rows, asked > LOUD_OPENING) - _mean(rows, asked < QUIET_OPENING)


class Obeyed(NamedTuple):
    """What a video shows of what a prompt asks for. None: not asked for. ``unasked`` is whether there is
    nothing that neither the portrait shows nor the prompt asks for; ``change`` is the ground's, relative to
    the truth."""

    ground: bool | None
    weather: bool | None
    light: bool | None
    things: bool | None
    look: bool | None
    unasked: bool
    change: float

    @property
    def asked(self) -> bool:
        """Everything that was asked for; if nothing was, nothing is there."""
        asked = [each for each in self[:5] if each is not None]
        return all(asked) if asked else self.unasked

    @property
    def all(self) -> bool:
        """Everything asked for, and nothing else."""
        return self.asked and self.unasked


LOOKS = {"left": (-0.7, None), "right": (0.7, None), "up": (None, 0.35), "down": (None, -0.35)}
"""Yaw or pitch that a prompt asks for, in radians."""


def measure_prompt(frames: Tensor, case: Case, asked: PromptCase) -> Obeyed:
    """Of a video's frames [F, 3, H, W]."""
    end = frames[-PROMPTED_FRAMES:]
    found = measure_contents(end, case.portrait, case.heads)
    plain = remove_light(end, found.light)
    angles = [measure_angles(plain, case.portrait, head.box).mean(dim=0).tolist() for head in case.heads]
    unasked = (
        (asked.ground is not None or found.ground == case.ground)
        and (asked.weather is not None or found.weather == case.weather)
        and (asked.light is not None or found.light == "")
        and found.things <= case.things | set(asked.things)
    )
    return Obeyed(
        ground=None if asked.ground is None else found.ground == asked.ground,
        weather=None if asked.weather is None else found.weather == asked.weather,
        light=None if asked.light is None else found.light == asked.light,
        things=None if not asked.things else found.things >= set(asked.things),
        look=None if asked.look is None else all(is_turned(each, asked.look) for each in angles),
        unasked=unasked,
        change=divide(measure_ground_change(end, case.heads), asked.change),
    )


def is_turned(angles: Sequence[float], look: str) -> bool:
    """Whether yaw and pitch in radians are near what ``look`` asks for."""
    pairs = zip(angles, LOOKS[look], MAX_TURN, strict=True)
    return all(to is None or math.degrees(abs(angle - to)) <= most for angle, to, most in pairs)


def summarize_prompts(rows: Sequence[Obeyed]) -> dict[str, float]:
    """Shares of what was asked for that is there; of ``objects`` ground, weather and things alone, as the
    floor counts them; ``all`` with nothing else besides."""
    kinds = ("ground", "weather", "light", "things", "look")
    shares = {
        kind: mean_known([float(getattr(row, kind)) for row in rows if getattr(row, kind) is not None])
        for kind in kinds
    }
    objects = [
        all(each for each in asked)
        for asked in (
            [value for value in (row.ground, row.weather, row.things) if value is not None] for row in rows
        )
        if asked
    ]
    return {
        **shares,
        "objects": mean_known([float(each) for each in objects]),
        "asked": mean_known([float(row.asked) for row in rows]),
        "unasked": mean_known([float(row.unasked) for row in rows]),
        "all": mean_known([float(row.all) for row in rows]),
        "change": float(np.nanmedian([row.change for row in rows])),
    }


def summarize(figures: Sequence[Figures]) -> dict[str, float]:
    """Means over videos, and the worst of the figures that have a floor per video or person."""
    rows = [each.as_dict() for each in figures]
    people = [speaker for each in figures for speaker in each.speakers]
    means = {key: mean_known([row[key] for row in rows]) for key in rows[0]}
    return {
        **means,
        "lag": float(np.median([speaker.lag for speaker in people])),
        "worst_follows": min(speaker.follows for speaker in people),
        "worst_yaw": max(speaker.yaw for speaker in people),
        "worst_seam": max(row["seam"] for row in rows),
    }


def divide(value: float, whole: float) -> float:
    return value / whole if whole else float("nan")


def _mean(rows: Floats, chosen: NDArray[np.bool_]) -> float:
    return (
        float(rows[: len(chosen)][chosen[: len(rows)]].mean()) if chosen[: len(rows)].any() else float("nan")
    )


def mean_known(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return fmean(known) if known else float("nan")
