"""Sources of documents, their tokens on disk, packed sequences, and the mixed stream that a model is trained on.

The way of the data, one module each: `sources` (where documents come from), `documents` (what a row means),
`encoding` and `chat` (documents as tokens), `store` (tokens on disk), `packing` (documents into sequences),
`mixture` (whose turn it is), `stream` (all of it as one sequence of rows), `preflight` (what is known before step 1).
"""
