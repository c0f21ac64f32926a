"""The example workflows as code: what stands where, what the notes say, ComfyUI's format."""
