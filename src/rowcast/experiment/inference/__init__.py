"""Split inference as a user runs it: a model from a file, a camera loop, methods compared, a demo on one machine.

The settings are known without PyTorch: what needs it is imported from its module when a command runs.
"""
