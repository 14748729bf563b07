"""What each command does. Arguments come from `lmlab.cli`; JAX is imported where it is needed, not before."""
