"""Do maps point where knowledge went? The benchmark on images whose truth is known by construction."""
