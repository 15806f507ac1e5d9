"""Training a student from a teacher: losses, feature taps and the recipe that runs them."""
