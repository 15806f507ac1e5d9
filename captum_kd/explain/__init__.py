"""What ``captum-kd explain`` does: find models and images, compare, write a report."""
