"""Types of tokens, by the numbers that SentencePiece and GGUF share."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
