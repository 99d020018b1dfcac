"""One module per paper, in the paper's own order; they do not import each other."""
