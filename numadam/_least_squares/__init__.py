"""Least-squares fits of many small problems, by Levenberg-Marquardt."""
