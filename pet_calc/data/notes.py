"""What a reader notes of a frame: words that checks and models look for in them."""

COLUMNS_NOT_READ = "columns that the header does not declare (Properties), not read"
LIKE_FORCES = "; three of them sum to zero over the frame, as forces do"
NOT_FINITE = "not finite (NaN or Inf), treated as missing"
NOT_SYMMETRIC = "is not symmetric, was symmetrised"
PREDICTED = "is a prediction of pet-calc, no label"
MAY_HOLD = "not read, but there is"
"""After the name of an input or a label: under another name it may be there."""
NOT_WHOLE = "is no whole number"
NO_WEIGHT = "has weight 0: the frame counts nowhere"

_WARNED = (NOT_FINITE, NOT_SYMMETRIC, PREDICTED, LIKE_FORCES)


def is_warning(note: str) -> bool:
    """Return whether a note says that a label is wrong, or not the one meant."""
    return any(words in note for words in _WARNED)


def find_state_notes(notes: tuple[str, ...]) -> list[str]:
    """Return the notes on a charge or a spin that is there but could not be read.

    They mean nothing to a model without conditioning.
    """
    return [
        note
        for note in notes
        if note.startswith(("charge ", "spin "))
        and (MAY_HOLD in note or NOT_WHOLE in note)
    ]
