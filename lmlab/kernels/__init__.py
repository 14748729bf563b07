"""Array functions: a plain reference and a fast form of each."""
