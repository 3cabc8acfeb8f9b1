"""Quantisation to int8: the schemes, the images that judge the candidates, and the choice of the one that ships."""
