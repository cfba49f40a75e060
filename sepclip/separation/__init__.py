"""Separating sounds of any format, rate, length and channel count in bounded memory."""
