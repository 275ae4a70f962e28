"""Row delivery, one direction at a time: what is due, frames on their way, acknowledgements, and what a cut puts back.

Knows rows, codecs and frames, and neither who talks nor what the rows are good for.
"""
