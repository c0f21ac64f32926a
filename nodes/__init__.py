"""The nodes: ComfyUI's values in, one call into ``hallo3``, ComfyUI's values out."""
