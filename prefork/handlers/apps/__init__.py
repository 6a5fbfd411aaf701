"""Python applications: found by name, called by their interface, their responses buffered."""
