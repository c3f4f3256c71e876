"""Kernels: one body each, built once per instruction set; see task.h for the ABI and reference.py for their NumPy twins."""
