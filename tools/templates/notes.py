"""What the notes of the example workflows say."""

from __future__ import annotations

HUB = "https://huggingface.co/"
T5 = HUB + "comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp8_e4m3fn_scaled.safetensors"
VAE = HUB + "zai-org/CogVideoX-5b-I2V/resolve/main/vae/diffusion_pytorch_model.safetensors"
SPEECH = HUB + "facebook/wav2vec2-base-960h/resolve/main/model.safetensors"

BUILT_IN = """### What you see

The built-in model: small, trained on drawn faces, 64 x 64 px, for any computer. Photographs need the \
released weights."""
YOURS = """### Your own portrait and speech

Take Load Image and Load Audio: select both, press Ctrl+M to wake them, choose your files, and connect them \
in place of Hallo3 Sample. The portrait should be drawn."""


def files(where: str) -> str:
    """Where weights go; ``where`` are the nodes that load them."""
    return f"""### Weights files go into

- `models/diffusion_models`: model and reference network
- `models/vae`: [CogVideoX VAE]({VAE})
- `models/audio_encoders`: [wav2vec2-base-960h]({SPEECH})
- `models/text_encoders`: [T5-XXL]({T5}), for a prompt

Load them with {where}, in place of Load Hallo3 Built-in, and set steps to 50, guidance to 3.5."""


ELSEWHERE = files("the nodes of *Hallo3 five stages*, group *Real weights and prompt*")
HERE = files("group *Real weights and prompt* (Ctrl+M)")

TALKING_PORTRAIT = "\n\n".join(
    (
        """### A talking portrait

Press Run: Hallo3 Sample's portrait speaks for 6.5 s.""",
        BUILT_IN,
        YOURS,
        ELSEWHERE,
    )
)

FIVE_STAGES = "\n\n".join(
    (
        """### The five stages, spelled out

1. Encode Speech listens to the recording.
2. Identity Reference looks at the portrait once.
3. Sampler draws a segment: 33 frames, 1.3 s.
4. VAE Decode makes pictures of it.
5. The next segment goes on from the last two frames, motion_frames.

Two of six segments are made here. For a whole speech, Hallo3 Extrapolate does all this by itself.""",
        BUILT_IN,
        YOURS,
        HERE,
    )
)

WITH_KSAMPLER = "\n\n".join(
    (
        """### Hallo3 as a MODEL like any other

Segment Conditioning turns one segment into positive, negative and latent for KSampler. The built-in \
model's settings are ddim, simple, cfg 1, the released model's dpmpp_2m_sde, simple, cfg 3.5.

Put LoRA loaders, EasyCache or torch.compile between model and KSampler. For segment 1, connect \
motion_frames of segment 0's VAE Decode (*Hallo3 five stages* shows how).""",
        BUILT_IN,
        YOURS,
        ELSEWHERE,
    )
)

LONG_SPEECH = "\n\n".join(
    (
        """### Long recordings

Extrapolate goes on for as long as the speech lasts, in the same memory, and keeps every finished segment: \
after a stop, queue again, and it goes on. *Hallo3 Plan* says what it takes; *Drift* shows how well it kept.

- *Try a piece first*: select Trim Audio Duration and press Ctrl+B; it then passes on 5 s.
- *EasyCache* skips steps that change little; with one step there are none, so it is off. For real weights, \
select it and press Ctrl+B. A lower threshold skips less.
- *Original Sampler* and *Original Schedule* are what Extrapolate uses anyway; put others in their place.
- *Prompt*: with real weights, wake group *Real weights and prompt*, Conditioning Zero Out and CFG Guider. \
For the built-in model, connect its clip to CLIP Text Encode; it knows warm, blue, green and dim light.""",
        BUILT_IN,
        YOURS,
        HERE,
    )
)

VIDEO_SOUND = "\n\n".join(
    (
        """### From a video, and larger

The video's first frame is the portrait, its sound the speech. The finished frames are enlarged by \
Upscale Image By; Upscale Image (using Model) does it better.

### Your own video

Here Create Video makes a small one of Hallo3 Sample. Select Load Video, press Ctrl+M to wake it, choose a \
file, and connect it to Get Video Components instead.""",
        BUILT_IN,
        ELSEWHERE,
    )
)
