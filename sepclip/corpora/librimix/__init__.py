"""Libri2Mix and Libri3Mix."""
