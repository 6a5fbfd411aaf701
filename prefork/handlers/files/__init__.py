"""Static files: from a path to the file that it names, its representations, their cache, and directory listings."""
