"""Speed on this machine, beside what a user would pick instead."""
