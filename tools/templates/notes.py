"""Notes of the example workflows."""

from __future__ import annotations

HUB = "https://huggingface.co/"
T5 = HUB + "comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp8_e4m3fn_scaled.safetensors"
VAE = HUB + "zai-org/CogVideoX-5b-I2V/resolve/main/vae/diffusion_pytorch_model.safetensors"
SPEECH = HUB + "facebook/wav2vec2-base-960h/resolve/main/model.safetensors"

BUILT_IN = """### What you see

The built-in model: small, trained on drawn faces, 64 x 64 px, runs on any computer. Photographs need the \
released weights."""
YOURS = """### Your own portrait and speech

Select Load Image and Load Audio, press Ctrl+M to unmute them, choose your files, and connect them instead\
 of Hallo3 Sample. Use a drawn portrait."""


def files(where: str) -> str:
    """Folders of the weights; ``where`` names the nodes that load them."""
    return f"""### Weights files go into

- `models/diffusion_models`: model and reference network
- `models/vae`: [CogVideoX VAE]({VAE})
- `models/audio_encoders`: [wav2vec2-base-960h]({SPEECH})
- `models/text_encoders`: [T5-XXL]({T5}), for a prompt

Load them with {where} instead of Load Hallo3 Built-in; set steps to 50 and guidance to 3.5."""


ELSEWHERE = files("the nodes of *Hallo3 five stages*, group *Released weights and prompt*,")
HERE = files("the group *Released weights and prompt* (Ctrl+M)")

TALKING_PORTRAIT = "\n\n".join(
    (
        """### A talking portrait

Press Run: the portrait of Hallo3 Sample speaks for 6.5 s.""",
        BUILT_IN,
        YOURS,
        ELSEWHERE,
    )
)

FIVE_STAGES = "\n\n".join(
    (
        """### The five stages, step by step

1. Encode Speech turns the recording into speech features.
2. Identity Reference analyzes the portrait once.
3. Sampler samples a segment: 33 frames, 1.3 s.
4. VAE Decode decodes it into frames.
5. The next segment continues from the last two frames, motion_frames.

This workflow renders two of six segments. For a whole speech, use Hallo3 Extrapolate.""",
        BUILT_IN,
        YOURS,
        HERE,
    )
)

WITH_KSAMPLER = "\n\n".join(
    (
        """### Hallo3 as an ordinary MODEL

Segment Conditioning turns one segment into positive, negative and latent for KSampler. Use ddim, simple, \
cfg 1 for the built-in model and dpmpp_2m_sde, simple, cfg 3.5 for the released one.

Put LoRA loaders, EasyCache or torch.compile between model and KSampler. For segment 1, connect \
motion_frames of segment 0's VAE Decode, as in *Hallo3 five stages*.""",
        BUILT_IN,
        YOURS,
        ELSEWHERE,
    )
)

LONG_SPEECH = "\n\n".join(
    (
        """### Long recordings

Extrapolate renders speech of any length in constant memory and saves every finished segment: after a \
stop, queue again to resume. *Hallo3 Plan* estimates the cost; *Drift* shows the quality over time.

- *Try a short part first*: select Trim Audio Duration and press Ctrl+B; it then cuts to 5 s.
- *EasyCache* skips steps that change little. It is off, because one step leaves none to skip. For the \
released weights, select it and press Ctrl+B. A lower threshold skips fewer.
- *Original Sampler* and *Original Schedule* are Extrapolate's defaults; replace them with others.
- *Prompt*: with the released weights, unmute the group *Released weights and prompt*, Conditioning Zero \
Out and CFG Guider. For the built-in model, connect its clip to CLIP Text Encode; it knows warm, blue, \
green and dim light.""",
        BUILT_IN,
        YOURS,
        HERE,
    )
)

VIDEO_SOUND = "\n\n".join(
    (
        """### From a video, upscaled

The video's first frame is the portrait, its sound the speech. Upscale Image By enlarges the finished \
frames; Upscale Image (using Model) gives better quality.

### Your own video

Here Create Video makes a short one from Hallo3 Sample. Select Load Video, press Ctrl+M to unmute it, \
choose a file, and connect it to Get Video Components instead.""",
        BUILT_IN,
        ELSEWHERE,
    )
)
