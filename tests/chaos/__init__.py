"""The fault harness: real processes, a faulty world around them, and an account of their own.

`python -m tests.chaos --seed 1` runs it; `make chaos` writes docs/reliability.md from it.
"""
