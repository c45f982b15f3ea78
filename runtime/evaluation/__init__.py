"""The metrics of generated scenes: against a truth, between two runs, and between two distributions.

Arrays in, plain dataclasses and dicts out. Whatever a metric has no value for (a constant target's PSNR, the IoU of a
class that is nowhere) is NaN or left out, as its docstring says; :func:`~.results.plain` makes JSON of it.
"""
