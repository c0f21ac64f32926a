"""Notes of the example workflows."""

from __future__ import annotations

HUB = "https://huggingface.co/"
PUBLISHED = {
    "vae": HUB + "zai-org/CogVideoX-5b-I2V/resolve/main/vae/diffusion_pytorch_model.safetensors",
    "speech_encoder": HUB + "facebook/wav2vec2-base-960h/resolve/main/model.safetensors",
}
"""Where two of the parts are published as safetensors, with the numbers that ``convert`` writes."""
T5 = HUB + "comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp8_e4m3fn_scaled.safetensors"

NAME = "Hallo3 talking portrait (released weights)"
BUILT_IN = f"""### What you see

The built-in model: small, trained on drawn people, 144 x 96 px, runs on any computer. For photographs, open \
*{NAME}*."""
YOURS = """### Your own portrait and speech

Replace Hallo3 Sample with Load Image and Load Audio. Use a drawn portrait."""

TALKING_PORTRAIT = f"""### A talking portrait

Press Run: the portrait of Hallo3 Sample speaks for 6.5 s. `paste_back` puts the moving face into the whole \
picture, so the video is as large as the picture.

{BUILT_IN}

### Your own portrait and speech

Select Load Image and Load Audio, press Ctrl+M to unmute them, choose your files, and connect them instead \
of Hallo3 Sample. Use a drawn portrait."""

APP = f"""### Portrait, voice and prompt as a form

*App mode* shows three fields and the video; this is the graph behind it. Choose a drawn portrait and a \
recording, then press Run. The prompt can name weather, a place, a thing, a light: *rain, with a cup*.

{BUILT_IN}"""

RELEASED = f"""### Your photograph, with the released weights

Choose a portrait and a recording, then press Run. This takes a GPU and up to hours: *Hallo3 Plan* \
estimates disk, memory and time first.

### Files

Download and convert once, in a terminal:

    hallo3 download weights
    hallo3 convert weights ComfyUI/models

`convert` writes the files that this workflow names:

- `models/diffusion_models`: model and reference network
- `models/vae`: VAE
- `models/audio_encoders`: wav2vec2-base-960h
- `models/text_encoders`: T5-XXL, for the prompt only

For the smaller fp8 files (`convert --dtype fp8`), choose them in the loaders. Add *Hallo3 Doctor* and \
press Run to see which files are missing and where they go.

[VAE]({PUBLISHED["vae"]}) and [wav2vec2]({PUBLISHED["speech_encoder"]}) are also published alone: save them \
under the names in the loaders. [T5 in fp8]({T5}) works too.

Photographs need `pip install onnxruntime` and the face analyzer, which `convert` brings.

### Settings

- *Prompt*: bypass CLIP Text Encode and mute Load CLIP to run without T5.
- `paste_back` keeps the whole photograph; turn it off in both nodes for the crop alone.
- After a stop, press Run again to resume."""

FIVE_STAGES = f"""### The five stages, step by step

1. Encode Speech turns the recording into speech features.
2. Identity Reference analyzes the portrait once.
3. Sampler samples a segment: 33 frames, 1.3 s.
4. VAE Decode decodes it into frames.
5. The next segment continues from the last two frames, motion_frames.

This workflow renders two of six segments. For a whole speech, use Hallo3 Talking Video.

{BUILT_IN}

{YOURS}"""

WITH_KSAMPLER = f"""### Hallo3 as an ordinary MODEL

Segment Conditioning turns one segment into positive, negative and latent for KSampler. Use ddim, simple, \
1 step, cfg 1 for the built-in model and dpmpp_2m_sde, simple, 50 steps, cfg 3.5 for the released one.

Put LoRA loaders, EasyCache or torch.compile between model and KSampler. For the next segment, connect \
motion_frames of this one's VAE Decode, as in *Hallo3 five stages*.

{BUILT_IN}

{YOURS}"""

LONG_SPEECH = f"""### Long recordings

Hallo3 Talking Video renders speech of any length in constant memory and saves every finished segment: \
after a stop, press Run again to resume. *Hallo3 Plan* estimates the cost; *Drift* shows the quality over \
time.

- *Try a short part first*: select Trim Audio Duration and press Ctrl+B; it then cuts to 5 s.
- *EasyCache* skips steps that change little. It is off, because one step leaves none to skip. For the \
released weights, select it and press Ctrl+B. A lower threshold skips fewer.
- *Original Sampler* and *Original Schedule* are the defaults; replace them with others.
- *Prompt*: the built-in model knows places, weather, things and lights; see the help of Load Hallo3 Built-in.

{BUILT_IN}

{YOURS}"""

CONTINUE = f"""### Continue a finished video

The first Hallo3 Talking Video renders the first recording. The second continues it: its `continue_from` \
is connected to `job` of the first, and its video contains both recordings.

Only the new part is rendered. Use the same portrait and settings in both.

{BUILT_IN}

{YOURS}"""

SEVERAL = f"""### One recording, several portraits

Create List turns three portraits into a list, and ComfyUI runs everything after it once per portrait: three \
videos. Add more inputs, or replace it with Load Image Dataset from Folder for a whole folder.

A list of recordings works as well.

{BUILT_IN}

{YOURS}"""

TWO_PEOPLE = f"""### Two people talk

The recording is stereo: the left channel is the first voice, the right channel the second. *Hallo3 Identity \
of Several People* numbers the faces from the left, and *Hallo3 Combine Speech* gives face 1 the voice of \
`speech_1`, face 2 that of `speech_2`. To swap the voices, swap the two links.

For one recording of both, connect it to `speech_1` alone and write who speaks when in `speakers`.

Several people are untested on the released weights, which were trained with one.

{BUILT_IN}

{YOURS}"""

VIDEO_SOUND = f"""### From a video, upscaled

The video's first frame is the portrait, its sound the speech. Upscale Image By enlarges the finished \
frames; Upscale Image (using Model) gives better quality.

### Your own video

Here Create Video makes a short one from Hallo3 Sample. Select Load Video, press Ctrl+M to unmute it, \
choose a file, and connect it to Get Video Components instead.

{BUILT_IN}"""
