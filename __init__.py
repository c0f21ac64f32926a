"""ComfyUI-Hallo3: make a portrait talk.

Nothing is imported here: ComfyUI calls the entry point, and everything else can import the repository.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI's way in. Raises ``ImportError`` with advice for a ComfyUI that is too old."""
    from .nodes.comfy import check_version

    check_version()
    try:
        from .nodes.extension import Hallo3Extension
    except SystemExit as error:
        raise ImportError("A library that ComfyUI-Hallo3 imports wanted to end ComfyUI.") from error

    return Hallo3Extension()
