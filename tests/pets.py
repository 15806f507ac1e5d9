"""A small data set in the layout of PetImages."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image


def write_pets(root: Path) -> Path:
    """PetImages as it is downloaded: two classes, an empty JPEG, a truncated one, a Thumbs.db."""
    generator = torch.Generator().manual_seed(0)
    for tint, name in enumerate(("Cat", "Dog")):
        folder = root / "PetImages" / name
        folder.mkdir(parents=True)
        for i in range(30):
            pixels = torch.randint(0, 120, (32, 32, 3), generator=generator, dtype=torch.uint8)
            pixels[..., tint] += 100
            Image.fromarray(pixels.numpy()).save(folder / f"{i}.jpg")
        (folder / "Thumbs.db").write_bytes(b"not an image")
    (root / "PetImages" / "Cat" / "666.jpg").write_bytes(b"")
    whole = (root / "PetImages" / "Dog" / "1.jpg").read_bytes()
    (root / "PetImages" / "Dog" / "11702.jpg").write_bytes(whole[: len(whole) // 2])
    return root
