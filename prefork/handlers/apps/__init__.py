"""Python applications: how they are found by name, called by their interface, and how their responses are buffered."""
