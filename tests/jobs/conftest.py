from support.refusals import words_are_as_recorded

__all__ = ["words_are_as_recorded"]
