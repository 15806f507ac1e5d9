"""Images: folders, files, splits, and planted cues whose truth is known."""
