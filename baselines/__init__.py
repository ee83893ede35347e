"""What the searches are compared with: symmetric and uniform random, templates, a graph model, anybody's files."""
