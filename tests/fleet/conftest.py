from cli.conftest import undisturbed

__all__ = ["undisturbed"]
