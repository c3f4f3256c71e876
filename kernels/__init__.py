"""Kernels, built once per instruction set; task.h is their ABI, reference.py holds their NumPy references."""
