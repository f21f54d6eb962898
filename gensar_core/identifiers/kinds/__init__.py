"""Hold every kind of identifiers, one file a kind, and nothing else.

The name of a file is what `kind` of an entry of `identifiers` may be. The file binds ``KIND`` to an
`identifiers.interface.Kind`:

- ``settings``, the model of what the kind reads, from `config.identifiers`. Its ``inputs`` declare the data (keys of
  `identifiers.interface.INPUTS`): the rule `identifiers` asks for their files, and the kind gets no other paths.
- ``paper``, its source.
- ``build``, a function of (settings, data, work) that returns an `identifiers.interface.SideIdentifiers` for each side
  that it builds. Where it builds one, both sides get these identifiers. ``work`` holds the seed, the folder of
  checkpoints, and the running stage, for the kind's own files (``work.stage.path``) and counts (``work.stage.record``).
  A training writes its curve as curve.json and says so (``leaves_curve`` of the settings); the figure of trainings
  then draws it.

A side holds a row for every item: codes, with the names and sizes of their levels, or a text, which the corpus writes
in pieces of its tokenizer. Rows of codes may differ in length if none is the beginning of another.

A new kind takes a file here, a model or two in gensar_core/config/identifiers.py, and a place in the union at the end
of that file (docs/add-an-identifier.md).
"""
