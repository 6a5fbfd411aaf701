"""Static files: the way from a path to a file, the file's representations, their cache, and directory listings."""
