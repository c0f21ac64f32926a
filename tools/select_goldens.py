"""Select the goldens of the repository: ``python tools/select_goldens.py SOURCE tests/golden``.

Keeps the tensors that match a kind's pattern and rewrites the JSON files accordingly.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

PATTERNS: dict[str, str] = {
    "weights_main_dit": ".*",
    "weights_ref_net": ".*",
    "weights_vae_encoder": ".*",
    "weights_vae_decoder": ".*",
    "weights_wav2vec_tiny": ".*",
    "audio_frontend_3p3s": r"in\..*|out\..*|mid\.interpolated_features",
    "audio_proj_frame_counts": ".*",
    "backbone_forward_13f": r"in\..*|out\.final",
    "dit_forward_b1": r"in\..*|out\..*|mid\.(audio_proj_out|face_proj_out|layer_0_out|L1_self_q.*"
    r"|L1_audio_k.*|L1_adaln.*|timestep.*|time_.*)",
    "dit_forward_b2_cfg": r"in\..*|out\..*|mid\.(audio_proj_out|L0_.*)",
    "dit_forward_eps_probe": r"out\..*|mid\.(audio|face)_proj_out",
    "e2e_frames": r"out\.frames_uint8",
    "e2e_io": r"in\..*|draw\..*|out\.latent.*|mid\.(ref_latent|bank_.*|audio_emb|concat.*)",
    "extrapolation_loop": ".*",
    "face_mask": r"(landmarks|face_mask)_\d",
    "image_resize": r"(rect\.tall_4x3|rect\.wide_2x1|square\.sq150)\..*",
    "motion_mask": ".*",
    "ref_net_forward": ".*",
    "sampler_dit_8steps": r"in\..*|out\..*|net_t_.*|noise_used_.*|n_draws.*",
    "sampler_toy_8steps": ".*",
    "sampler_toy_50steps": r"in\..*|out\..*|toy\..*|net_t_.*|noise_used_.*|n_draws.*",
    "schedule": ".*",
    "tiny_checkpoint": ".*",
    "train_loss": r"in\..*|draw\..*|mid\.net_out|out\..*",
    "vae_decode_chunked": ".*",
    "vae_decode_onego": r"in\..*|out\.first_[123]_.*",
    "vae_encode": r".*_[1235]",
}


def select(source: Path, target: Path) -> int:
    """Copy the selection and return its size in bytes."""
    target.mkdir(parents=True, exist_ok=True)
    for name, pattern in PATTERNS.items():
        about = json.loads((source / f"{name}.json").read_text())
        if "file" not in about:
            shutil.copy(source / f"{name}.json", target)
            for file in about.get("files", ()):
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / file, target / file)
            continue
        everything = load_file(source / about["file"])
        tensors = {key: value for key, value in everything.items() if re.fullmatch(pattern, key)}
        if not tensors:
            raise SystemExit(f"{name}: {pattern} matches no tensor")
        save_file(tensors, target / about["file"])
        about["tensors"] = {key: value for key, value in about["tensors"].items() if key in tensors}
        about["bytes"] = (target / about["file"]).stat().st_size
        (target / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")
    return sum(path.stat().st_size for path in target.rglob("*"))


if __name__ == "__main__":
    print(f"{select(Path(sys.argv[1]), Path(sys.argv[2])) / 1e6:.2f} MB")
