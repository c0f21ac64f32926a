"""What a run will take, before anything is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..segments import SegmentPlan
from ..settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """The size of a run. ``network_evaluations`` counts forward passes of the transformer, a branch each; at
    most so many where a step cache ``reuses`` some."""

    model: str
    segments: int
    frames: int
    seconds: float
    width: int
    height: int
    fps: int
    steps: int
    guidance_scale: float
    sampler: str
    network_evaluations: int
    attention: str
    reuses: bool

    def text(self) -> str:
        """The bill for people."""
        return (
            f"model     {self.model}\n"
            f"video     {self.frames} frames, {self.seconds:.2f} s at {self.fps} fps, "
            f"{self.width} x {self.height}\n"
            f"segments  {self.segments}\n"
            f"sampling  {self.steps} steps of {self.sampler}, guidance {self.guidance_scale:g}\n"
            f"network   {'at most ' * self.reuses}{self.network_evaluations} evaluations\n"
            f"attention {self.attention}"
        )


def bill(model: str, plan: SegmentPlan, settings: Settings, width: int, height: int, attention: str) -> Bill:
    """The bill of a planned run; ``attention`` is the backend chosen."""
    return Bill(
        model=model,
        segments=len(plan),
        frames=plan.frames,
        seconds=plan.frames / plan.config.fps,
        width=width,
        height=height,
        fps=plan.config.fps,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        sampler=settings.sampler,
        network_evaluations=len(plan) * settings.evaluations,
        attention=attention,
        reuses=settings.step_cache > 0,
    )


def as_dict(value: Bill) -> dict[str, object]:
    """The bill for programs; ``reuses`` is left out where nothing is."""
    return {name: found for name, found in asdict(value).items() if name != "reuses" or found}
