"""The demo on embedded images."""
