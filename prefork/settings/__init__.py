"""Settings: owns the configuration, which is checked before anything is bound or forked.

`schema.py` has the Structs, with every default; `load.py` fills them from a TOML file and the command line, and raises
one ConfigError with every problem it can find, a line each: `config/server.toml: workers.count: expected ..., got ...`.
`kinds.py` reads single values, `tables.py` reads the tables of the file into the Structs, and `json_schema.py`
describes the file to editors.
"""
