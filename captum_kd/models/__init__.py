"""Networks: their layers, activations and gradients, class scores, architectures, and checkpoints."""
